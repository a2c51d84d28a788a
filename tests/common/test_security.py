"""Keys, certificates and rates over real servers on port 0: who gets in, and what changes while a server runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
import structlog
import trustme
from dpst.v1 import progress_pb2, stylizer_pb2, stylizer_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.auth import current_caller
from services.common.client import make_channel
from services.common.config import ProcessSettings
from services.common.health import Health
from services.common.keys import KeyFile, KeyFileError, new_key
from services.common.metrics import Metrics
from services.common.server import bind, make_server
from services.common.tls import ChannelCertificates, TlsError, server_credentials

STYLIZER = "dpst.v1.Stylizer"


class _Stylizer(stylizer_pb2_grpc.StylizerServicer):
    def __init__(self) -> None:
        self.callers: list[str] = []
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def Stylize(self, request, context) -> AsyncIterator[stylizer_pb2.StylizeResponse]:
        self.callers.append(current_caller())
        yield stylizer_pb2.StylizeResponse(queued=progress_pb2.Queued(position=1))
        await self.may_end.wait()


@asynccontextmanager
async def serving(settings: ProcessSettings) -> AsyncIterator[tuple[str, _Stylizer]]:
    servicer, health = _Stylizer(), Health((STYLIZER,))
    await health.serving(True)
    server = make_server(settings, Metrics())
    stylizer_pb2_grpc.add_StylizerServicer_to_server(servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = bind(server, "127.0.0.1", 0, server_credentials(settings))
    await server.start()
    try:
        yield f"localhost:{port}", servicer
    finally:
        await health.drain()
        await server.stop(None)


async def call(address: str, settings: ProcessSettings | None = None) -> None:
    async with make_channel(address, STYLIZER, settings or ProcessSettings(), Metrics()) as channel:
        async for _ in stylizer_pb2_grpc.StylizerStub(channel).Stylize(stylizer_pb2.StylizeRequest(), timeout=5):
            pass


async def refusal(address: str, settings: ProcessSettings | None = None) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(address, settings)
    return caught.value


def token_file(folder: Path, token: str) -> ProcessSettings:
    file = folder / "token"
    file.write_text(f"{token}\n")
    return ProcessSettings(token_file=file)


async def test_only_callers_with_a_key_get_in_and_health_needs_none(tmp_path: Path) -> None:
    (token, entry), keys = new_key("photo-backend"), tmp_path / "keys.toml"
    keys.write_text(entry)
    assert token not in entry
    async with serving(ProcessSettings(api_keys_file=keys)) as (address, servicer):
        for wrong in (None, token_file(tmp_path, "dpst_guess"), token_file(tmp_path, token[:-1])):
            error = await refusal(address, wrong)
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "Bearer" in (error.details() or "")
        await call(address, token_file(tmp_path, token))
        assert servicer.callers == ["photo-backend"]
        async with grpc.aio.insecure_channel(address) as channel:
            reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=STYLIZER))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_key_may_be_for_some_services_only(tmp_path: Path) -> None:
    (token, entry), keys = new_key("viewer"), tmp_path / "keys.toml"
    keys.write_text(entry + 'services = ["dpst.v1.PhotoStyle"]\n')
    async with serving(ProcessSettings(api_keys_file=keys)) as (address, servicer):
        error = await refusal(address, token_file(tmp_path, token))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert error.details() == "the key viewer may not call dpst.v1.Stylizer"
        assert not servicer.callers


async def test_keys_change_while_the_server_runs(tmp_path: Path) -> None:
    (old, old_entry), (new, new_entry) = new_key("old"), new_key("new")
    keys = tmp_path / "keys.toml"
    keys.write_text(old_entry)
    async with serving(ProcessSettings(api_keys_file=keys)) as (address, _):
        await call(address, token_file(tmp_path, old))
        keys.write_text(new_entry)
        os.utime(keys, ns=(1, 1))
        await call(address, token_file(tmp_path, new))
        assert (await refusal(address, token_file(tmp_path, old))).code() is grpc.StatusCode.UNAUTHENTICATED
        keys.write_text("broken [")
        os.utime(keys, ns=(2, 2))
        await call(address, token_file(tmp_path, new))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("keys = 3", "keys"),
        ("[[keys]]\nname = 'a b'\nsha256 = ''", "keys.0.name"),
        (f"[[keys]]\nname = 'a'\nsha256 = '{'0' * 63}'", "keys.0.sha256"),
        (f"[[keys]]\nname = 'a'\nsha256 = '{'0' * 64}'\nrole = 'root'", "keys.0.role"),
        (2 * f"[[keys]]\nname = 'a'\nsha256 = '{'0' * 64}'\n", "two keys are called a"),
        ("[[keys", "keys.toml"),
    ],
)
def test_a_bad_file_of_keys_is_explained(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(text)
    with pytest.raises(KeyFileError, match=reason):
        KeyFile(file)
    with pytest.raises(KeyFileError, match="nowhere"):
        KeyFile(tmp_path / "nowhere")


async def test_secrets_are_never_logged(tmp_path: Path) -> None:
    (token, entry), keys = new_key("photo-backend"), tmp_path / "keys.toml"
    keys.write_text(entry)
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        async with serving(ProcessSettings(api_keys_file=keys)) as (address, _):
            await call(address, token_file(tmp_path, token))
            await refusal(address, token_file(tmp_path, "dpst_guess"))
    assert [line["code"] for line in lines if line["event"] == "rpc finished" and "Stylize" in line["method"]]
    assert token not in repr(lines)
    assert "dpst_guess" not in repr(lines)


class Certificates:
    """A certificate authority, and files of certificates by it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.authority = folder, trustme.CA()
        folder.mkdir(parents=True, exist_ok=True)
        self.ca = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca))

    def issue(self, name: str, identity: str = "localhost") -> tuple[Path, Path]:
        certificate = self.authority.issue_cert(identity, common_name=name)
        chain, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
        key.write_bytes(certificate.private_key_pem.bytes())
        return chain, key


async def test_tls_and_a_renewed_certificate(tmp_path: Path) -> None:
    first, second = Certificates(tmp_path / "first"), Certificates(tmp_path / "second")
    chain, key = first.issue("server")
    settings = ProcessSettings(tls_cert=chain, tls_key=key)
    async with serving(settings) as (address, servicer):
        await call(address, ProcessSettings(tls_ca=first.ca))
        assert (await refusal(address)).code() is grpc.StatusCode.UNAVAILABLE
        assert (await refusal(address, ProcessSettings(tls_ca=second.ca))).code() is grpc.StatusCode.UNAVAILABLE
        new_chain, new_key_file = second.issue("server")
        key.unlink()  # half replaced: the old ones stay in force
        await call(address, ProcessSettings(tls_ca=first.ca))
        key.write_bytes(new_key_file.read_bytes())
        chain.write_bytes(new_chain.read_bytes())
        await call(address, ProcessSettings(tls_ca=second.ca))
        assert (await refusal(address, ProcessSettings(tls_ca=first.ca))).code() is grpc.StatusCode.UNAVAILABLE
        assert len(servicer.callers) == 3


async def test_mutual_tls_names_the_caller_by_its_certificate(tmp_path: Path) -> None:
    ours, others = Certificates(tmp_path / "ours"), Certificates(tmp_path / "others")
    chain, key = ours.issue("server")
    settings = ProcessSettings(tls_cert=chain, tls_key=key, tls_client_ca=ours.ca)
    async with serving(settings) as (address, servicer):
        gateway, gateway_key = ours.issue("gateway", "gateway.internal")
        await call(address, ProcessSettings(tls_ca=ours.ca, tls_cert=gateway, tls_key=gateway_key))
        assert servicer.callers == ["gateway"]
        assert (await refusal(address, ProcessSettings(tls_ca=ours.ca))).code() is grpc.StatusCode.UNAVAILABLE
        stranger, stranger_key = others.issue("gateway", "gateway.internal")
        wrong = ProcessSettings(tls_ca=ours.ca, tls_cert=stranger, tls_key=stranger_key)
        assert (await refusal(address, wrong)).code() is grpc.StatusCode.UNAVAILABLE


async def test_a_channel_shows_its_new_certificate_and_its_running_calls_go_on(tmp_path: Path) -> None:
    ours = Certificates(tmp_path)
    chain, key = ours.issue("server")
    async with serving(ProcessSettings(tls_cert=chain, tls_key=key, tls_client_ca=ours.ca)) as (address, servicer):
        own, own_key = ours.issue("gateway")
        settings = ProcessSettings(tls_ca=ours.ca, tls_cert=own, tls_key=own_key)
        async with make_channel(address, STYLIZER, settings, Metrics()) as channel:
            stub = stylizer_pb2_grpc.StylizerStub(channel)
            servicer.may_end.clear()
            running = stub.Stylize(stylizer_pb2.StylizeRequest(), timeout=30)
            await running.call.read()
            new, new_key = ours.issue("renewed")
            own.write_bytes(b"half written")
            own_key.unlink()
            await stub.Stylize(stylizer_pb2.StylizeRequest(), timeout=5).call.read()  # no new files: the old ones
            own_key.write_bytes(new_key.read_bytes())
            own.write_bytes(new.read_bytes())
            await stub.Stylize(stylizer_pb2.StylizeRequest(), timeout=5).call.read()
            assert servicer.callers == ["gateway", "gateway", "renewed"]
            servicer.may_end.set()
            assert await running.call.read() is grpc.aio.EOF
            assert await running.call.code() is grpc.StatusCode.OK


def test_unreadable_certificates_are_named(tmp_path: Path) -> None:
    chain, key = Certificates(tmp_path).issue("server")
    with pytest.raises(TlsError, match="nowhere"):
        server_credentials(ProcessSettings(tls_cert=chain, tls_key=tmp_path / "nowhere"))
    with pytest.raises(TlsError, match="nowhere"):
        ChannelCertificates(tmp_path / "nowhere", ProcessSettings())
    with pytest.raises(ValueError, match="belong together"):
        ProcessSettings(tls_cert=chain)
    with pytest.raises(ValueError, match="DPST_TLS_CLIENT_CA needs"):
        ProcessSettings(tls_client_ca=chain)
    assert server_credentials(ProcessSettings()) is None
    assert key.exists()


async def test_watchers_of_health_are_told_and_leave_when_it_drains() -> None:
    health = Health((STYLIZER,))
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = bind(server, "127.0.0.1", 0)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=STYLIZER)
        first, second = (aiter(stub.Watch(request)) for _ in range(2))
        statuses = health_pb2.HealthCheckResponse
        assert (await anext(first)).status == (await anext(second)).status == statuses.NOT_SERVING
        leaving = stub.Watch(request)
        await leaving.read()
        leaving.cancel()
        await health.serving(True)
        assert (await anext(first)).status == (await anext(second)).status == statuses.SERVING
        await health.drain()
        for watcher in (first, second):
            assert (await anext(watcher)).status == statuses.NOT_SERVING
            with pytest.raises(StopAsyncIteration):
                await anext(watcher)
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == statuses.SERVING
        with pytest.raises(grpc.aio.AioRpcError, match="no service 'x'"):
            await stub.Check(health_pb2.HealthCheckRequest(service="x"))
    async with asyncio.timeout(5):
        await server.stop(30)
