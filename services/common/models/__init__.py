"""Model folders, found and verified. What fetches them is in ``catalogue``, ``download``, ``pull`` and ``store``.

Services import from here and so load no HTTP library.
"""

from __future__ import annotations

from services.common.models.find import find_model
from services.common.models.folder import Model, ModelError
from services.common.models.location import embedded_models_dir, user_models_dir

__all__ = ["Model", "ModelError", "embedded_models_dir", "find_model", "user_models_dir"]
