"""Addresses and credentials for hosted agents, held to botocore's signatures."""

from __future__ import annotations

import datetime
from unittest import mock
from urllib.parse import parse_qsl, urlsplit

import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from duologue.client import RuntimeClient, additional_headers
from duologue.errors import ConfigurationError

ARN = "arn:aws:bedrock-agentcore:us-west-2:123456789012:runtime/delivery-abcdefghij"
NOW = datetime.datetime(2026, 11, 21, 6, 0, 0, tzinfo=datetime.UTC)
KEYS = Credentials("DLAKEXAMPLE", "secret/key+with=signs")
SESSION = "s" * 40


@pytest.fixture
def client() -> RuntimeClient:
    return RuntimeClient(
        "https://h.example:8443",
        access_key=KEYS.access_key,
        secret_key=KEYS.secret_key,
        region="us-west-2",
        now=lambda: NOW,
    )


def test_signed_headers_are_those_that_botocore_makes(client: RuntimeClient) -> None:
    url, headers = client.generate_ws_connection(ARN, SESSION, "pinned")
    assert url.startswith("wss://h.example:8443/runtimes/arn%3Aaws%3A")
    signed = {"host": "h.example:8443", "x-amzn-bedrock-agentcore-runtime-session-id": SESSION}
    request = AWSRequest("GET", "https" + url.removeprefix("wss"), headers=signed)
    with mock.patch("botocore.auth.get_current_datetime", return_value=NOW):
        SigV4Auth(KEYS, "bedrock-agentcore", "us-west-2").add_auth(request)
    assert headers["Authorization"] == request.headers["Authorization"]
    assert "session-id" in headers["Authorization"]
    assert set(additional_headers(headers)) == {
        "X-Amz-Date",
        "Authorization",
        "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id",
    }


def test_a_presigned_url_is_the_one_that_botocore_makes(client: RuntimeClient) -> None:
    custom = {"X-Amzn-Bedrock-AgentCore-Runtime-Custom-a": "b c+d~e"}
    url = client.generate_presigned_url(ARN, SESSION, "pinned", custom, expires=60)
    query = dict(parse_qsl(urlsplit(url).query))
    plain = "https" + url.removeprefix("wss").split("&X-Amz-Algorithm")[0]
    own = {name: value for name, value in query.items() if not name.startswith("X-Amz-")}
    request = AWSRequest("GET", plain.split("?")[0], headers={"host": "h.example:8443"}, params=own)
    with mock.patch("botocore.auth.get_current_datetime", return_value=NOW):
        SigV4QueryAuth(KEYS, "bedrock-agentcore", "us-west-2", expires=60).add_auth(request)
    assert dict(parse_qsl(urlsplit(request.url).query)) == query
    assert custom == {"X-Amzn-Bedrock-AgentCore-Runtime-Custom-a": "b c+d~e"}


def test_tokens_go_into_a_header(client: RuntimeClient) -> None:
    url, headers = client.generate_ws_connection_oauth("delivery", "token")
    assert url == "wss://h.example:8443/runtimes/delivery/ws"
    assert headers["Authorization"] == "Bearer token"
    assert len(headers["X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"]) >= 33


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ConfigurationError, match="no address"):
        RuntimeClient("localhost:8443")
    with pytest.raises(ConfigurationError, match="two halves"):
        RuntimeClient("https://h", access_key="a")
    keyless = RuntimeClient("http://h")
    with pytest.raises(ConfigurationError, match="access key"):
        keyless.generate_ws_connection(ARN)
    with pytest.raises(ConfigurationError, match="300"):
        keyless.generate_presigned_url(ARN, expires=301)
    with pytest.raises(ConfigurationError, match="empty"):
        keyless.generate_ws_connection_oauth(ARN, "")
    with pytest.raises(ConfigurationError, match="neither"):
        keyless.generate_ws_connection_oauth("../x", "t")
    assert keyless.generate_ws_connection_oauth("a", "t")[0].startswith("ws://h/")
