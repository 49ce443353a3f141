"""The configuration file: what it accepts, how it complains, and that what is written can be read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.crypto import KeyPair
from serving.config.fields import ConfigError
from serving.config.file import format_config, load_config, parse_config, write_default_config
from serving.config.models import EmbeddedModel, IdentityConfig, OpenAIModel
from serving.config.policy import PolicyBounds, PolicyConfig
from serving.config.schema import AdminConfig, ApiConfig, ApiKeyConfig, DhtConfig, JudgeConfig, LogConfig, NodeConfig
from serving.config.yaml_marks import parse_yaml
from serving.keys.records import ConfiguredKey
from serving.scheduling.policy import ModelQuota, PolicyParameters

PEER = KeyPair(bytes(range(32)))
PEER_ADDRESS = f"/ip4/192.0.2.7/tcp/4001/p2p/{PEER.address}"
OTHER_ADDRESS = f"/dns4/table.example.org/tcp/1/p2p/{KeyPair(bytes(32)).address}"

FULL = f"""
listen: [/ip4/0.0.0.0/tcp/4001, /ip6/::/tcp/0]
announce:
  - /dns4/node.example.org/tcp/4001
bootstrap:
  - {PEER_ADDRESS}
dht:
  bootstrap: [{OTHER_ADDRESS}]
api:
  host: 0.0.0.0
  port: 8080
  keys:
    - {{key: sk-one, requests_per_minute: 60}}
    - key: sk-two
admin: {{host: "::1", port: 0}}
policy:
  name: mine
  stake: 5.25
  offload_frequency: 1
  prioritize_own: false
models:
  - kind: openai
    base_url: http://10.0.0.5:8000/v1/
    api_key_env: VLLM_KEY
    names: [a, b]
    weight: 2
    quantizations: {{a: Q4_K_M}}
    load: vllm
    stall_timeout_s: 2.5
    identity: {{model: b, weights: {"0a" * 32}, quantization: w4a16-kv16, engine: vllm}}
  - kind: embedded
    declare_identity: true
judge: {{model: a, prompt_file: own.txt, form: letter, reasoning_tokens: 500}}
validate: false
block_spacing_ms: 0
log: {{level: debug, format: json}}
"""


def test_reads_every_section() -> None:
    assert parse_config(FULL) == NodeConfig(
        listen=("/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/0"),
        announce=("/dns4/node.example.org/tcp/4001",),
        bootstrap=(PEER_ADDRESS,),
        dht=DhtConfig(bootstrap=(OTHER_ADDRESS,)),
        api=ApiConfig(
            host="0.0.0.0",
            port=8080,
            keys=(ApiKeyConfig(key="sk-one", requests_per_minute=60), ApiKeyConfig(key="sk-two")),
        ),
        admin=AdminConfig(host="::1", port=0),
        policy=PolicyConfig(name="mine", stake=5.25, offload_frequency=1.0, prioritize_own=False),
        models=(
            OpenAIModel(
                kind="openai",
                base_url="http://10.0.0.5:8000/v1/",
                api_key_env="VLLM_KEY",
                names=("a", "b"),
                weight=2.0,
                quantizations={"a": "Q4_K_M"},
                load="vllm",
                stall_timeout_s=2.5,
                identity=IdentityConfig(model="b", weights="0a" * 32, quantization="w4a16-kv16", engine="vllm"),
            ),
            EmbeddedModel(declare_identity=True),
        ),
        judge=JudgeConfig(model="a", prompt_file="own.txt", form="letter", reasoning_tokens=500),
        validate=False,
        block_spacing_ms=0,
        log=LogConfig(level="debug", format="json"),
    )


def test_a_node_takes_part_in_a_hash_table_unless_it_hides() -> None:
    bootstrap, other = (PEER.public_key, PEER_ADDRESS.rpartition("/p2p/")[0]), KeyPair(bytes(32)).public_key
    assert NodeConfig().get_dht_servers() == []
    assert parse_config(FULL).get_dht_servers() == [(other, "/dns4/table.example.org/tcp/1"), bootstrap]
    proxied = parse_config("socks5: 127.0.0.1:9050\n" + FULL)
    hidden = (parse_config(f"anonymous: true\nbootstrap: [{PEER_ADDRESS}]"), parse_config(FULL).as_anonymous(), proxied)
    for config in (*hidden, parse_config("dht: {enabled: false}")):
        assert config.get_dht_servers() is None


def test_an_anonymous_node_listens_nowhere_whatever_the_default() -> None:
    config = parse_config(f"anonymous: true\nsocks5: '[::1]:9050'\nbootstrap: [{PEER_ADDRESS}]")
    assert config.get_listen() == () and config.get_proxy() == ("::1", 9050)
    assert parse_config("socks5: localhost:9050").get_proxy() == ("127.0.0.1", 9050)
    assert parse_config("").get_proxy() is None and parse_config("").get_listen() == NodeConfig().listen


def test_the_mode_can_be_switched_on_for_a_node_that_listens() -> None:
    config = parse_config(FULL).as_anonymous()
    assert config.anonymous and config.get_listen() == () and config.announce == () and not config.hole_punching
    with pytest.raises(ConfigError, match="bootstrap: an anonymous node"):
        NodeConfig().as_anonymous()


def test_converts_to_what_the_node_takes() -> None:
    config = parse_config(FULL)
    assert config.get_bootstrap() == [(PEER.public_key, "/ip4/192.0.2.7/tcp/4001")]
    assert config.api.get_keys() == (ConfiguredKey("sk-one", 60), ConfiguredKey("sk-two", 0))
    assert config.policy.get_parameters() == PolicyParameters(offload_frequency=1.0, prioritize_own=False)
    assert config.votes is False


def test_policy_has_the_parameters_and_their_defaults() -> None:
    assert [field.name for field in dataclasses.fields(PolicyParameters)] == list(PolicyBounds.model_fields)
    assert NodeConfig().policy.get_parameters() == PolicyParameters()


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "api:\nlisten:\nmodels:\npolicy: {stake: null}\n"])
def test_what_is_left_out_or_empty_has_its_default(text: str) -> None:
    assert parse_config(text) == NodeConfig()


def test_only_an_identity_of_vllm_names_all_number_formats() -> None:
    config = parse_config(IDENTITY.format(WEIGHTS.replace("w8a16-kv16, engine: vllm", "Q4_K_M, engine: llamacpp")))
    (entry,) = config.models
    assert isinstance(entry, OpenAIModel) and entry.identity is not None and entry.identity.quantization == "Q4_K_M"


def test_empty_lists_are_not_defaults() -> None:
    config = parse_config("listen: []\nmodels: []\n")
    assert (config.listen, config.models) == ((), ())


IDENTITY = "models:\n  - {{kind: openai, base_url: 'http://x', names: [a], identity: {{{}}}}}"
WEIGHTS = f"weights: {'0a' * 32}, quantization: w8a16-kv16, engine: vllm"
BAD = [
    # text, line, key path, and a part of the reason
    ("lissten: []", 1, "lissten", "is unknown: did you mean 'listen'?"),
    ("api:\n  prot: 80", 2, "api.prot", "did you mean 'port'?"),
    (
        "api:\n  zzz: 80",
        2,
        "api.zzz",
        "max_per_address, port, tls_certificate, tls_key)",
    ),
    ("votes: true", 1, "votes", "is unknown"),
    ("models:\n  - kind: openai\n    base_url: http://x:1\n    contract: 3", 4, "models[0].contract", "unknown"),
    ("models:\n  - kind: embedded\n    base_url: http://x", 3, "models[0].base_url", "is unknown"),
    ("models:\n  - kind: openai\n    capacity: 3", 2, "models[0].base_url", "is missing"),
    ("models:\n  - capacity: 3", 2, "models[0]", "kind is missing"),
    ("models:\n  - kind: vllm", 2, "models[0]", "kind must be 'embedded' or 'openai', got 'vllm'"),
    ("models: embedded", 1, "models", "must be a list, got 'embedded'"),
    ("api:\n  tls_key: k.pem", 1, "api", "takes both tls_certificate and tls_key"),
    ("api: 8000", 1, "api", "must be a section of keys and values, got 8000"),
    ("api:\n  port: 65536", 2, "api.port", "must be at most 65535, got 65536"),
    ("checkpoint: 12", 1, "checkpoint", "must be text"),
    ("checkpoint: '12:ab'", 1, "checkpoint", "expected HEIGHT:BLOCKID with a block id of 64 hexadecimal digits"),
    ("keep_epochs: -1", 1, "keep_epochs", "must be at least 0"),
    ("api:\n  port: -1", 2, "api.port", "must be at least 0"),
    ("api:\n  port: '8000'", 2, "api.port", "must be a whole number, got '8000'"),
    ("api:\n  port: 8000.0", 2, "api.port", "must be a whole number"),
    ("api:\n  port: true", 2, "api.port", "must be a whole number, got true"),
    ("api:\n  host: 127", 2, "api.host", "must be text"),
    ("api:\n  host: ''", 2, "api.host", "must not be empty"),
    ("api:\n  allowed_hosts: ['a.example:80']", 2, "api.allowed_hosts[0]", "a host name or address without a port"),
    ("api:\n  allowed_hosts: ['https://a.example']", 2, "api.allowed_hosts[0]", "a host name or address"),
    ("api:\n  allowed_origins: [a.example]", 2, "api.allowed_origins[0]", "an origin such as https://"),
    ("api:\n  allowed_origins: ['https://a.example/']", 2, "api.allowed_origins[0]", "no path"),
    ("api:\n  allowed_origins: ['null']", 2, "api.allowed_origins[0]", "an origin such as https://"),
    ("api:\n  allowed_origins: ['*']", 2, "api.allowed_origins[0]", "an origin such as https://"),
    ("api:\n  max_per_address: 0", 2, "api.max_per_address", "must be at least 1"),
    ("api:\n  keys:\n    - key: a\n    - key: b\n    - key: a", 5, "api.keys[2].key", "appears twice"),
    ("api:\n  keys:\n    - key: 'a b'", 3, "api.keys[0].key", "visible ASCII"),
    ("admin:\n  host: 0.0.0.0", 2, "admin.host", "must be a loopback address"),
    ("admin:\n  host: example.org", 2, "admin.host", "must be a loopback address"),
    ("api:\n  port: 9\nadmin:\n  port: 9", 4, "admin.port", "is the port of the API"),
    ("policy:\n  offload_frequency: 1.01", 2, "policy.offload_frequency", "must be at most 1"),
    ("policy:\n  accept_frequency: .nan", 2, "policy.accept_frequency", "must be"),
    ("policy:\n  prioritize_own: 1", 2, "policy.prioritize_own", "must be true or false, got 1"),
    ("policy:\n  stake: -5", 2, "policy.stake", "must be at least 0"),
    ("policy:\n  stake: 0.1234567", 2, "policy.stake", "has at most six decimals"),
    ("policy:\n  max_tokens: 0", 2, "policy.max_tokens", "must be at least 1"),
    ("policy:\n  max_wait_s: 0", 2, "policy.max_wait_s", "must be more than 0"),
    ("policy:\n  serve_others: maybe", 2, "policy.serve_others", "must be 'always', 'idle' or 'never', got 'maybe'"),
    ("policy:\n  schedule:\n    - Sat-Sun\n    - Mun", 4, "policy.schedule[1]", "'Mun' is no day"),
    ("policy:\n  schedule: ['8:00-9:00']", 2, "policy.schedule[0]", "must be such as 'Mon-Fri 18:00-08:00'"),
    ("policy:\n  time_zone: Mars", 2, "policy.time_zone", "'Mars' is no time zone that this machine knows"),
    ("policy:\n  models: 3", 2, "policy.models", "must be a section of keys and values, got 3"),
    ("policy:\n  models:\n    m: 3", 3, "policy.models.m", "must be a section of keys and values, got 3"),
    ("policy:\n  models:\n    m:\n      max_own: 0", 4, "policy.models.m.max_own", "must be at least 1, got 0"),
    ("policy:\n  models:\n    m: {max_oun: 2}", 3, "policy.models.m.max_oun", "did you mean 'max_own'?"),
    ("policy:\n  models:\n    é: {}", 3, "policy.models.é", "must consist of printable ASCII characters"),
    ("listen: /ip4/0.0.0.0/tcp/1", 1, "listen", "must be a list"),
    ("listen:\n  - /ip4/0.0.0.0/udp/4001/quic-v1", 2, "listen[0]", "expected an address like /ip4/"),
    ("listen:\n  - /ip4/0.0.0.0/tcp/70000", 2, "listen[0]", "0 to 65535, got '70000'"),
    ("listen:\n  - /ip4/::/tcp/1", 2, "listen[0]", "'::' is not an IPv4 address"),
    ("listen:\n  - /ip9/1/tcp/1", 2, "listen[0]", "/ip9 is not supported"),
    ("listen:\n  - /dns4/a.example/tcp/1", 2, "listen[0]", "names a host"),
    ("anonymous: true\nlisten: []", 1, "bootstrap", "name one at least"),
    (
        f"anonymous: true\nlisten:\n  - /ip4/0.0.0.0/tcp/4001\nbootstrap: [{PEER_ADDRESS}]",
        2,
        "listen",
        "does not listen",
    ),
    (
        f"anonymous: true\nannounce: [/ip4/192.0.2.1/tcp/1]\nbootstrap: [{PEER_ADDRESS}]",
        2,
        "announce",
        "announces no address",
    ),
    (
        f"anonymous: true\nbootstrap: [/dns4/a.example/tcp/1/p2p/{PEER.address}]",
        2,
        "bootstrap[0]",
        "give the IP address",
    ),
    (f"anonymous: true\nsocks5: tor:9050\nbootstrap: [{PEER_ADDRESS}]", 2, "socks5", "the proxy's IP address"),
    (f"anonymous: true\nupnp: true\nbootstrap: [{PEER_ADDRESS}]", 2, "upnp", "no port to forward"),
    (f"anonymous: true\nhole_punching: true\nbootstrap: [{PEER_ADDRESS}]", 2, "hole_punching", "tells the peer"),
    (
        f"anonymous: true\nbootstrap: [{PEER_ADDRESS}]\ndht:\n  bootstrap: [{OTHER_ADDRESS}]",
        4,
        "dht.bootstrap",
        "no part in the DHT",
    ),
    ("dht: {bootstrap: [/ip4/192.0.2.7/tcp/4001]}", 1, "dht.bootstrap[0]", "must end with /p2p/"),
    ("socks5: 127.0.0.1", 1, "socks5", "expected HOST:PORT"),
    ("socks5: 127.0.0.1:0", 1, "socks5", "expected HOST:PORT"),
    ("socks5: '[::1:9050'", 1, "socks5", "expected HOST:PORT"),
    ("relay:\n  max_circuits: 0", 2, "relay.max_circuits", "must be at least 1"),
    ("reachability: maybe", 1, "reachability", "must be"),
    ("announce:\n  - /ip4/0.0.0.0/tcp/1", 2, "announce[0]", "others cannot dial"),
    ("announce:\n  - /ip4/192.0.2.1/tcp/0", 2, "announce[0]", "others cannot dial"),
    ("announce:\n  - /dns4/a_b/tcp/1", 2, "announce[0]", "is not a host name"),
    ("bootstrap:\n  - /ip4/192.0.2.1/tcp/1", 2, "bootstrap[0]", "must end with /p2p/12D3KooW"),
    ("bootstrap:\n  - /ip4/192.0.2.1/tcp/1/p2p/12D3KooWxx", 2, "bootstrap[0]", "not the address of a usable"),
    ("models:\n  - kind: openai\n    base_url: ftp://x", 3, "models[0].base_url", "not the base URL"),
    ("models:\n  - kind: openai\n    base_url: http://x:99999", 3, "models[0].base_url", "ort"),
    ("models:\n  - kind: openai\n    base_url: http://localhost:8000/v1", 3, "models[0].base_url", "this node itself"),
    ("models:\n  - {kind: openai, base_url: 'http://x', load: tgi}", 2, "models[0].load", "must be 'auto', 'vllm'"),
    ("models:\n  - {kind: openai, base_url: 'http://x', names: ['']}", 2, "models[0].names[0]", "must not be empty"),
    ("models:\n  - {kind: openai, base_url: 'http://x', names: [é]}", 2, "models[0].names[0]", "printable ASCII"),
    ("models:\n  - {kind: openai, base_url: 'http://x', capacity: 0}", 2, "models[0].capacity", "at least 1"),
    (
        "models:\n  - {kind: openai, base_url: 'http://x', stall_timeout_s: 0}",
        2,
        "models[0].stall_timeout_s",
        "more than",
    ),
    ("models:\n  - {kind: openai, base_url: 'http://x', api_key: k, api_key_env: K}", 2, "models[0]", "takes one"),
    (
        f"models:\n  - {{kind: openai, base_url: 'http://x', names: {list('abcdefghijklmnopq')}}}",
        2,
        "models[0].names",
        "most 16",
    ),
    (IDENTITY.format("engine: vllm"), 2, "models[0].identity.quantization", "is missing"),
    (
        IDENTITY.format("quantization: w8a16-kv16, engine: sglang"),
        2,
        "models[0].identity.engine",
        "'vllm' or 'llamacpp'",
    ),
    (
        IDENTITY.format("quantization: w8a16-kv16, engine: vllm"),
        2,
        "models[0].identity",
        "either weights or weight_files",
    ),
    (
        IDENTITY.format("weights: ab, quantization: w8a16-kv16, engine: vllm"),
        2,
        "models[0].identity.weights",
        "64 hexadecimal",
    ),
    (IDENTITY.format(WEIGHTS.replace("w8a16-kv16", "fp8")), 2, "models[0].identity", "activations and key-value cache"),
    (IDENTITY.format(WEIGHTS.replace("w8a16-kv16", "fp8-kv16")), 2, "models[0].identity", "format of activations open"),
    (IDENTITY.format(f"model: c, {WEIGHTS}"), 2, "models[0]", "identity is of 'c', which is not in names"),
    (
        IDENTITY.replace("names: [a]", "names: [a], quantizations: {{a: q4}}").format(WEIGHTS),
        2,
        "models[0].quantizations",
        "the identity of 'a' says something else",
    ),
    ("models:\n  - {kind: openai, base_url: 'http://x', weight: 0}", 2, "models[0].weight", "more than 0"),
    (IDENTITY.replace("names: [a], ", "").format(WEIGHTS), 2, "models[0]", "identity does not name its model"),
    (
        IDENTITY.format(WEIGHTS) + "\n  - {kind: openai, base_url: 'http://y', names: [b, a]}",
        2,
        "models[0].identity",
        "another backend of 'a' has another identity, or none",
    ),
    ("log:\n  level: loud", 2, "log.level", "must be 'debug', 'info', 'warning' or 'error', got 'loud'"),
    ("block_spacing_ms: 0.25", 1, "block_spacing_ms", "must be a whole number"),
    ("api:\n  port: 1\nlog: {}\napi:\n  port: 2", 4, "api", "appears twice (first in line 1)"),
    ("api:\n  port: 1\n  port: 1", 3, "api.port", "appears twice (first in line 2)"),
    ("api: &a\n  keys: [*a]", 1, "api.keys[0]", "contains itself"),
    ("1: 2", 1, "", "a key must be text, and '1' is not"),
    ("[1]", 1, "", "must be a section"),
    ("api:\n\tport: 1", 2, "", "spaces, not with tabs"),
    ("api: {port: 1", 1, "", "not valid YAML"),
    ("api: !!python/object:os.system {}", 1, "", "not valid YAML: could not determine a constructor"),
    ("a: 1\n---\nb: 2", 2, "", "not valid YAML"),
    ("log:\n  level: \x01", 2, "", "special characters"),
    ('api:\n  host: "\\ud800"', 2, "api.host", "is not text"),
    ('api:\n  "\\ud800": 1', 2, "api", "is not text"),
    ("x: 2024-13-45", 1, "", "month must be in 1..12"),
    ("[" * 1200, 1, "", "nested too deeply"),
]


@pytest.mark.parametrize(("text", "line", "path", "reason"), BAD, ids=[repr(row[0])[:60] for row in BAD])
def test_names_file_line_key_and_reason(text: str, line: int, path: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_config(file)
    message = str(raised.value)
    assert message.startswith(f"{file}:{line}: {path}: " if path else f"{file}:{line}: ")
    assert reason in message
    assert "\n" not in message


def test_names_every_fault_in_the_order_of_the_file() -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config("log: {level: x}\napi:\n  host: 1\n  port: a\nfoo: 1\n", "c")
    lines = str(raised.value).splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["c:1", "log.level"],
        ["c:3", "api.host"],
        ["c:4", "api.port"],
        ["c:5", "foo"],
    ]


@pytest.mark.parametrize(
    "text", ["api: {keys: [{key: [sekret]}]}", "models: [{kind: openai, base_url: x, api_key: 5318}]"]
)
def test_does_not_show_keys(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config(text)
    assert "sekret" not in str(raised.value)
    assert "5318" not in str(raised.value)


def test_key_of_a_server_comes_from_file_or_environment() -> None:
    fields = {"kind": "openai", "base_url": "http://x"}
    assert OpenAIModel.model_validate(fields).get_api_key({}) is None
    assert OpenAIModel.model_validate({**fields, "api_key": "k"}).get_api_key({}) == "k"
    model = OpenAIModel.model_validate({**fields, "api_key_env": "NAME"})
    assert model.get_api_key({"NAME": "secret"}) == "secret"
    with pytest.raises(ConfigError, match="NAME is not set"):
        model.get_api_key({})
    with pytest.raises(ConfigError, match="NAME must consist of visible ASCII") as raised:
        model.get_api_key({"NAME": "se cret"})
    assert "se cret" not in str(raised.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        load_config(tmp_path / "none.yaml")
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"api:\n  host: \xe9")
    with pytest.raises(ConfigError, match=r"latin\.yaml:2: is not UTF-8"):
        load_config(file)
    file.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(ConfigError, match="is larger"):
        load_config(file)


# Writing


def test_default_file_parses_back_to_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    write_default_config(file)
    assert load_config(file) == NodeConfig()
    assert file.stat().st_mode & 0o777 == 0o600
    first = file.read_text().partition("\n")[0]
    assert first.startswith("# yaml-language-server: $schema=")
    schema = json.loads((tmp_path / first.partition("=")[2]).read_text())
    assert set(schema["properties"]) >= {"models", "api", "drain_timeout_s"}
    with pytest.raises(FileExistsError):
        write_default_config(file)


def test_default_file_names_every_key_with_a_comment() -> None:
    text = format_config(NodeConfig())
    for section in (NodeConfig, DhtConfig, ApiConfig, AdminConfig, PolicyConfig, OpenAIModel, LogConfig):
        for name, info in section.model_fields.items():
            assert f"{info.alias or name}:" in text
            assert info.description


def test_example_of_a_server_becomes_valid_when_uncommented() -> None:
    lines = format_config(NodeConfig()).splitlines()
    start = next(index for index, line in enumerate(lines) if line.strip() == "# - kind: openai")
    end = lines.index("", start)
    text = "\n".join(["models:", *[line.replace("# ", "", 1) for line in lines[start:end]]])
    (model,) = parse_config(text).models
    assert isinstance(model, OpenAIModel)
    assert model.names == ("name-of-the-model",)


def test_full_configuration_round_trips() -> None:
    config = parse_config(FULL)
    assert parse_config(format_config(config)) == config


def test_quotas_and_hours_round_trip() -> None:
    text = (
        "policy: {models: {'a.b/c:d': {max_own: 2, accept: false}, e: }, schedule: [Sat-Sun], time_zone: Europe/Rome}"
    )
    config = parse_config(text)
    assert parse_config(format_config(config)) == config
    parameters = config.policy.get_parameters()
    assert parameters.models == {"a.b/c:d": ModelQuota(max_own=2, accept=False), "e": ModelQuota()}
    assert (parameters.schedule, parameters.time_zone) == (("Sat-Sun",), "Europe/Rome")


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=40),
    st.floats(0, 1),
    st.none() | st.integers(0, 10**15).map(lambda micro: micro / 1_000_000),
    st.integers(0, 65535).filter(lambda port: port not in (8000, 8001, 9999)),
)
def test_any_value_round_trips(text: str, name: str, number: float, stake: float | None, port: int) -> None:
    config = NodeConfig(
        api=ApiConfig(host=text, port=port, keys=(ApiKeyConfig(key="k"),)),
        policy=PolicyConfig(name=text, offload_frequency=number, stake=stake),
        models=(OpenAIModel(kind="openai", base_url="http://10.0.0.1:9999", names=(name,), api_key_env=text),),
    )
    assert parse_config(format_config(config)) == config


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
def test_any_text_is_a_configuration_or_a_config_error(text: str) -> None:
    try:
        assert isinstance(parse_config(text), NodeConfig)
    except ConfigError as error:
        assert str(error).startswith("configuration:")


def test_marks_are_the_lines_of_keys_and_items() -> None:
    data, marks = parse_yaml("a:\n  - x\n  - b: 1\n    c: {d: 2}\n")
    assert data == {"a": ["x", {"b": 1, "c": {"d": 2}}]}
    assert marks == {
        (): 1,
        ("a",): 1,
        ("a", 0): 2,
        ("a", 1): 3,
        ("a", 1, "b"): 3,
        ("a", 1, "c"): 4,
        ("a", 1, "c", "d"): 4,
    }


def test_backends_of_one_model_may_share_an_identity() -> None:
    entry = "  - {kind: openai, base_url: 'http://%s', names: [a], identity: {%s}}"
    config = parse_config("models:\n" + "\n".join(entry % (host, WEIGHTS) for host in "xy"))
    first, second = config.models
    assert isinstance(first, OpenAIModel) and isinstance(second, OpenAIModel) and first.has_identity_of(second)
