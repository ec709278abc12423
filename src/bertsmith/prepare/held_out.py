"""The held-out text of prepared data, read once more from where it came from: shards keep ids and no text."""

from collections.abc import Iterator
from typing import Any

from bertsmith.config import DataConfig, read_toml, run_config
from bertsmith.corpus import Section
from bertsmith.errors import UserError
from bertsmith.prepare.adopt import prepared_source
from bertsmith.prepare.chunks import split_of
from bertsmith.prepare.fingerprint import difference
from bertsmith.prepare.inputs import held_out_share, read_inputs


def held_out_sections(config: DataConfig, manifest: dict[str, Any]) -> Iterator[Section]:
    """The sections that were held out when a text was prepared.

    Args:
        config: What was read. Where it names a run, that run's text is read.
        manifest: Of the shards.

    Raises:
        UserError: The text is gone or not what it was.
    """
    source = prepared_source(config)
    if source is not None:
        settings = source.root / "config.toml"
        if not settings.is_file():
            raise UserError(f"{source.root} was prepared before, which keeps no path to its text")
        tables = read_toml(settings)
        tables.pop("origin", None)
        inner = run_config(tables).data
        if prepared_source(inner) is not None and inner.text == config.text:
            raise UserError(f"{source.root} names itself as its text, and keeps no path to what it was prepared from")
        return held_out_sections(inner, manifest)
    inputs = read_inputs(config)
    changed = difference(manifest["fingerprint"], inputs.fingerprint)
    if changed is not None:
        raise UserError(f"its text is not what it was when it was prepared: {changed}")
    if inputs.validation is not None:
        return inputs.validation.sections()
    share = held_out_share(manifest, inputs)
    return (section for section in inputs.corpus.sections() if split_of(section, share) == "validation")
