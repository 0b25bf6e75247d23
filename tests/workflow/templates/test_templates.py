"""Templates: errors with their location, and versions that remain available."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from drw.api.kernel.v1.kernel_pb2 import ServiceStatus
from drw.api.workflow.v1.templates_pb2 import GetTemplateRequest, Input, ListTemplatesRequest
from drw.api.workflow.v1.templates_rpc import TemplatesClient
from drw.kernel.errors import InvalidRequest, NotFound
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.database import Database
from drw.workflow.templates import parser
from drw.workflow.templates.template_store import TemplateStore
from support.hosting import hosted

SHIPPED = [
    *("compare_filings", "digest", "earnings_digest", "news_brief"),
    *("promote_model", "research_inbox", "risk_memo"),
]

VALID = """
name: small
description: One node after another.
inputs:
  files: {type: FILES, required: true}
  title: {type: STRING, default: Notes}
nodes:
  - id: write
    uses: documents.digest
    needs: [read]
    with:
      title: ${inputs.title}
      summaries: ${steps.read.output}
  - id: read
    uses: serving.summarise
    for_each: ${inputs.files}
    with:
      file: ${item}
output: ${steps.write.output.file}
"""


def test_a_template_is_parsed_with_its_nodes_in_topological_order() -> None:
    template = parser.parse(VALID.encode(), "small.yaml")
    assert [node.id for node in template.nodes] == ["read", "write"]
    assert template.version == hashlib.sha256(VALID.encode()).hexdigest()
    assert template.source == VALID
    assert [(i.name, i.type, i.required, i.default) for i in template.inputs] == [
        ("files", Input.FILES, True, ""),
        ("title", Input.STRING, False, "Notes"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "description:",
            "descripton:",
            r"small.yaml:2:1: the key 'description' is missing; small.yaml:3:1: unknown key 'descripton'; did you mean",
        ),
        ("    needs: [read]", "    need: [read]", r"small.yaml:10:5: unknown key 'need'; did you mean 'needs'"),
        (
            "needs: [read]",
            "needs: [reed]",
            r"10:13: node 'write' needs 'reed', which is not a node of the same list; did you mean 'read'",
        ),
        ("file: ${item}\n", "file: ${item}\n    needs: [write]\n", r"form a cycle: .*write.*read|form a cycle: .*read"),
        ("- id: read", "- id: write", r"node 'write' is defined more than once"),
        ("uses: serving.summarise", "uses: serving.sing", r"15:11: 'serving.sing' is not an activity"),
        ("file: ${item}", "fille: ${item}", r"node 'read': 'serving.summarise' needs 'file' under 'with'"),
        (
            "file: ${item}",
            "file: ${item}\n      tone: dry",
            r"19:7: 'serving.summarise' does not accept 'tone'; there are: file",
        ),
        (
            "${inputs.title}",
            "${inputs.titel}",
            r"12:16: \$\{inputs.titel\}: there is no input 'titel'; did you mean 'title'",
        ),
        ("    needs: [read]\n", "", r"12:20: \$\{steps.read.output\}: 'read' is not a dependency here"),
        ("${inputs.title}", "${item}", r"12:16: \$\{item\}: 'item' is only available in a node with 'for_each'"),
        ("${inputs.title}", "${today}", r"12:16: \$\{today\}: undeclared reference to 'today'"),
        ("${inputs.title}", "${inputs.title", r"has a '\$\{' without its '\}'"),
        (
            "for_each: ${inputs.files}",
            "for_each: ${inputs.title}",
            r"16:15: for_each is .* are: \$\{inputs.files\}",
        ),
        (
            "output: ${steps.write",
            "output: ${steps.rite",
            r"19:11: \$\{steps.rite.output.file\}: there is no node 'rite'; did you mean 'write'",
        ),
        ("name: small", "name: small\nname: big", r"small.yaml:3:1: not valid YAML: duplicate key 'name'"),
        ("name: small", "name: &n small\nx: *n", r"aliases \(\*name\) are not allowed"),
        ("required: true", "required: 'true'", r"5:34: inputs.files.required: Input should be a valid boolean"),
        (
            "uses: serving",
            "timeout_seconds: 9000\n    uses: serving",
            r"nodes.1.timeout_seconds: Input should be less",
        ),
    ],
)
def test_errors_name_the_location_and_the_cause(old: str, new: str, message: str) -> None:
    assert old in VALID
    with pytest.raises(InvalidRequest, match=message):
        parser.parse(VALID.replace(old, new).encode(), "small.yaml")


@pytest.mark.parametrize("source", [b"", b"- a\n- b", b"{", b"\xff\xfe", b"a: " + b"x" * 70_000, b"{[a]: b}"])
def test_sources_that_are_not_templates_are_rejected(source: Any) -> None:
    with pytest.raises(InvalidRequest):
        parser.parse(source, "odd.yaml")


@pytest.mark.parametrize("how", ["together", "strict", "apart"])
async def test_the_shipped_template_is_listed(profile: Profile, how: str) -> None:
    async with hosted(profile, ["templates"], how) as host:
        client = host.client(TemplatesClient)
        listed = {t.name: t for t in (await client.list_templates(ListTemplatesRequest())).templates}
        assert list(listed) == SHIPPED
        digest = listed["digest"]
        assert [(n.id, n.uses, n.for_each) for n in digest.nodes] == [
            ("ingest", "documents.index", "${inputs.files}"),
            ("summarise", "serving.summarise", "${inputs.files}"),
            ("digest", "documents.digest", ""),
        ]
        assert await client.get_template(GetTemplateRequest(name="digest")) == digest
        with pytest.raises(NotFound, match="there is no template 'gone'; there are: compare_filings, digest"):
            await client.get_template(GetTemplateRequest(name="gone"))
        with pytest.raises(NotFound, match="never had the version '000"):
            await client.get_template(GetTemplateRequest(name="digest", version="0" * 64))


@pytest.fixture
def template_folder(profile: Profile, tmp_path: Path) -> tuple[Profile, Path]:
    """A profile with a folder of templates."""
    folder = tmp_path / "template_folder"
    folder.mkdir()
    return profile.model_copy(update={"services": {"templates": {"folder": str(folder)}}}), folder


async def test_an_edit_takes_effect_at_once_and_old_versions_remain(template_folder: Any) -> None:
    profile, folder = template_folder
    async with hosted(profile, ["templates"]) as host:
        client = host.client(TemplatesClient)
        (folder / "small.yaml").write_text(VALID)
        first = await client.get_template(GetTemplateRequest(name="small"))
        (folder / "small.yaml").write_text(VALID.replace("Notes", "Minutes"))
        second = await client.get_template(GetTemplateRequest(name="small"))
    assert first.version != second.version
    (folder / "small.yaml").unlink()
    async with hosted(profile, ["templates"]) as host:
        client = host.client(TemplatesClient)
        assert await client.get_template(GetTemplateRequest(name="small", version=first.version)) == first
        with pytest.raises(NotFound):
            await client.get_template(GetTemplateRequest(name="small"))


INVALID_FILES = {
    "deep.yaml": "name: deep\nx: " + "[" * 30_000,
    "nested.yaml": "".join(" " * level + "a:\n" for level in range(300)),
    "digits.yaml": "name: small\nx: " + "9" * 5_000,
    "hex.yaml": VALID.replace("file: ${item}", "file: 0x" + "f" * 50_000),
    "nan.yaml": VALID.replace("file: ${item}", "file: .nan"),
    "date.yaml": "name: 2024-13-99",
    "surrogate.yaml": VALID.replace("One node", '"\\ud800"'),
    "large.yaml": "name: large\nx: " + "y" * (1 << 20),
}


async def test_invalid_files_do_not_hide_valid_templates(template_folder: Any) -> None:
    profile, folder = template_folder
    for name, source in INVALID_FILES.items():
        (folder / name).write_text(source)
    os.mkfifo(folder / "fifo.yaml")
    (folder / "folder.yaml").mkdir()
    (folder / "loop.yaml").symlink_to(folder / "loop.yaml")
    (folder / "small.yaml").write_text(VALID)
    async with hosted(profile, ["templates"]) as host:
        for _ in range(2):  # the second pass uses cached errors
            listed = await host.client(TemplatesClient).list_templates(ListTemplatesRequest())
            assert [template.name for template in listed.templates] == [*SHIPPED, "small"]
        (status,) = (await host.status()).services
    for name in (*INVALID_FILES, "fifo.yaml", "folder.yaml", "loop.yaml"):
        assert name in status.detail


async def test_cached_errors_do_not_grow() -> None:
    store, raised = TemplateStore(Database("", "templates"), None), []
    for _ in range(3):
        with pytest.raises(InvalidRequest, match="is missing") as caught:
            store._template(b"name: bad", "bad.yaml")
        raised.append(caught.value)
    assert len({id(error) for error in raised}) == 3 and len({error.message for error in raised}) == 1


async def test_an_invalid_file_degrades_the_service_and_is_named_in_the_status(template_folder: Any) -> None:
    profile, folder = template_folder
    (folder / "bad.yaml").write_text("name: bad")
    async with hosted(profile, ["templates"]) as host:
        (status,) = (await host.status()).services
        assert status.state == ServiceStatus.DEGRADED
        assert "bad.yaml:1:1: the key 'description' is missing" in status.detail
        assert len((await host.client(TemplatesClient).list_templates(ListTemplatesRequest())).templates) == len(
            SHIPPED
        )
