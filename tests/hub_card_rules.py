"""The rules by which the Hub accepts a card's metadata, as its documentation and its error messages state them.

A card with an error is refused at push time; a warning lets it through. The messages keep the Hub's wording.
"""

import re

import yaml

# https://huggingface.co/docs/hub/repositories-licenses, without the one-vendor licences nothing here can carry.
LICENSES = frozenset(
    """
    afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0 bigscience-openrail-m bsd
    bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0
    cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
    cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0
    creativeml-openrail-m ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 gfdl gpl gpl-2.0 gpl-3.0 isc lgpl
    lgpl-2.1 lgpl-3.0 lgpl-lr lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openrail openrail++ osl-3.0 other
    pddl postgresql unknown unlicense wtfpl zlib
    """.split()
)
PIPELINE_TAGS = frozenset(
    """
    any-to-any audio-classification audio-text-to-text audio-to-audio automatic-speech-recognition feature-extraction
    fill-mask image-to-image image-to-text other text-classification text-generation text-to-audio text-to-image
    text-to-speech text-to-video token-classification translation voice-activity-detection
    """.split()
)
BASE_MODEL_RELATIONS = frozenset({"adapter", "finetune", "merge", "quantized"})
LIST_OF_STRINGS = ("tags", "datasets", "metrics", "language", "license", "base_model")
SCALAR_ALLOWED = ("language", "license", "base_model")
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
LANGUAGE = re.compile(r"[a-z]{2,3}|code|multilingual|[a-z]{2}-[A-Za-z]{2,4}")
FRONT_MATTER = re.compile(r"\A\ufeff?\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|\Z)", re.DOTALL)


def read_metadata(content: str) -> dict | None:
    """The YAML block at the head of a card, `None` without one; `yaml.YAMLError` or `ValueError` if malformed."""
    block = FRONT_MATTER.match(content)
    if block is None:
        return None
    metadata = yaml.safe_load(block.group(1))
    if metadata is not None and not isinstance(metadata, dict):
        raise ValueError("the metadata block is not a mapping")
    return metadata


def check_card(content: str) -> tuple[list[str], list[str]]:
    """Errors and warnings for the text of a README.md."""
    try:
        metadata = read_metadata(content)
    except (yaml.YAMLError, ValueError) as problem:
        return [f"Metadata could not be parsed as YAML: {problem}"], []
    if not metadata:
        return [], ["empty or missing yaml metadata in repo card"]

    errors, warnings = [], []
    for key in LIST_OF_STRINGS:
        if key in metadata:
            errors += _check_strings(key, metadata[key])
    if errors:
        return errors, warnings

    for license_id in _as_list(metadata.get("license")):
        if license_id not in LICENSES:
            errors.append(f'"license" must be one of [{", ".join(sorted(LICENSES))}], but got "{license_id}"')
    if metadata.get("license") == "other" and not (metadata.get("license_name") and metadata.get("license_link")):
        warnings.append('"license_name" and "license_link" should be set when "license" is "other"')
    if "license" not in metadata:
        warnings.append('"license" is missing')
    for language in _as_list(metadata.get("language")):
        if not LANGUAGE.fullmatch(language):
            errors.append(
                f'"language" must only contain ISO 639 codes, "code" or "multilingual", but got "{language}"'
            )
    for key in ("base_model", "datasets"):
        for repo_id in _as_list(metadata.get(key)):
            if not REPO_ID.fullmatch(repo_id):
                errors.append(f'"{key}" with value "{repo_id}" is not a valid repository id')
    relation = metadata.get("base_model_relation")
    if relation is not None and relation not in BASE_MODEL_RELATIONS:
        errors.append(f'"base_model_relation" must be one of {sorted(BASE_MODEL_RELATIONS)}, but got "{relation}"')
    for key in ("library_name", "pipeline_tag"):
        if key in metadata and not isinstance(metadata[key], str):
            errors.append(f'"{key}" must be a string')
    tag = metadata.get("pipeline_tag")
    if isinstance(tag, str) and tag not in PIPELINE_TAGS:
        warnings.append(f'The pipeline tag "{tag}" is not in the official list')
    return errors + _check_model_index(metadata.get("model-index")), warnings


def _as_list(value: object) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def _check_strings(key: str, value: object) -> list[str]:
    if isinstance(value, str) and key in SCALAR_ALLOWED:
        return []
    if not isinstance(value, list):
        return [f'"{key}" must be an array']
    # YAML reads the language code `no` as a boolean: the Hub refuses it with this message.
    return [f'"{key}[{i}]" must be a string' for i, item in enumerate(value) if not isinstance(item, str)]


def _check_model_index(index: object) -> list[str]:
    """Every result needs task.type, dataset.type, dataset.name and metrics with type and value."""
    if index is None:
        return []
    if not isinstance(index, list):
        return ['"model-index" must be an array']
    errors = []
    for i, model in enumerate(index):
        if not isinstance(model, dict) or not isinstance(model.get("results"), list):
            errors.append(f'"model-index[{i}].results" must be an array')
            continue
        if not model.get("name"):
            errors.append(f'"model-index[{i}].name" is required')
        for j, result in enumerate(model["results"]):
            where = f"model-index[{i}].results[{j}]"
            for group, field in (("task", "type"), ("dataset", "type"), ("dataset", "name")):
                if not (isinstance(result.get(group), dict) and result[group].get(field)):
                    errors.append(f'"{where}.{group}.{field}" is required')
            for k, metric in enumerate(result.get("metrics") or [{}]):
                errors += [
                    f'"{where}.metrics[{k}].{f}" is required' for f in ("type", "value") if metric.get(f) is None
                ]
    return errors
