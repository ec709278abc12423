"""The house rules: who may import whom, how long files may be, what is loaded when."""

import ast
import graphlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from runs import TINY

SOURCE = Path(__file__).parents[1] / "src" / "bertsmith"
MAX_LINES = 300
MAX_RUN_STATEMENTS = 90

ROWS = [
    {"cli"},
    {"commands"},
    {"compare", "contrastive"},
    {"embed", "export", "finetune", "pretrain"},
    {"comparison", "finish", "loop", "playground", "sentence_vectors", "starting"},
    {"diary", "evaluate", "finetuning"},
    {"evaluation", "fillings"},
    {"bench", "loading", "predict"},
    {"planning"},
    {"replay"},
    {"prepare"},
    {"card", "machine", "watch"},
    {"info", "model_source", "report", "step"},
    {"checkpoint", "corpus", "objective", "run_folder"},
    {"config", "data", "optim"},
    {
        "budget",
        "checkpoint_folders",
        "distributed",
        "metrics",
        "model",
        "muon",
        "output_folder",
        "recorder",
        "strict",
        "tokenizer",
    },
    {"board"},
    {"adamw", "atomic", "averaging", "errors", "interrupt", "intervals", "presets", "reporter"},
]
"""From the top; a module imports only from rows below its own, and a package is one module."""

TORCH_FREE = ("corpus", "tokenizer", "data.shards", "prepare", "data.examples", "data.masking", "cli", "config", "info")


def modules() -> list[Path]:
    return [path for path in sorted(SOURCE.rglob("*.py")) if path.name not in {"__main__.py"}]


def module_name(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_paths(path: Path) -> set[str]:
    """Full names of our modules that a file imports, at any depth in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: write imports from bertsmith in full"
            if node.module and node.module.split(".")[0] == "bertsmith":
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.startswith("bertsmith.")}
    return names


def imported_modules(path: Path) -> set[str]:
    """Names of the sibling modules that a file imports."""
    return {name.split(".")[1] for name in imported_paths(path)}


def test_no_file_imports_itself_over_others() -> None:
    files = {
        ".".join(("bertsmith", *path.relative_to(SOURCE).with_suffix("").parts)): path
        for path in modules()
        if path.name != "__init__.py"
    }
    graph = {}
    for name, path in files.items():
        wanted = imported_paths(path)
        graph[name] = {
            other for other in files if any(each == other or each.startswith(other + ".") for each in wanted)
        }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the files


def test_every_module_has_a_row() -> None:
    assert {module_name(path) for path in modules()} - {"__init__"} == set().union(*ROWS)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_only_lower_rows(path: Path) -> None:
    name = module_name(path)
    if name == "__init__":
        return
    row = next(number for number, names in enumerate(ROWS) if name in names)
    allowed = set().union(*ROWS[row + 1 :]) | {name}
    assert imported_modules(path) <= allowed


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_the_run_stays_within_its_budget() -> None:
    tree = ast.parse((SOURCE / "pretrain.py").read_text(encoding="utf-8"))
    run = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "pretrain")
    assert sum(isinstance(node, ast.stmt) for node in ast.walk(run)) - 1 <= MAX_RUN_STATEMENTS


@pytest.mark.parametrize(
    ("package", "allowed"), [("tokenizers", {"tokenizer"}), ("torch.distributed", {"distributed"})]
)
def test_one_module_alone_uses(package: str, allowed: set[str]) -> None:
    users = set()
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name == package or name.startswith(package + ".") for name in names):
                users.add(module_name(path))
    assert users == allowed


def test_benchmarks_import_what_there_is() -> None:
    """Also within functions, where a name that has moved shows only after hours."""
    for path in sorted(SOURCE.parents[1].glob("benchmarks/**/*.py")):
        for name in imported_paths(path):
            pkgutil.resolve_name(name)


def loaded_after(statement: str) -> set[str]:
    """Names of all modules, also those within packages."""
    code = f"{statement}\nimport sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_command_line_loads_nothing_heavy() -> None:
    assert not loaded_after("import bertsmith.cli") & {"torch", "transformers", "datasets", "pyarrow", "rich"}


@pytest.mark.parametrize("module", TORCH_FREE)
def test_text_modules_load_no_torch(module: str) -> None:
    assert "torch" not in loaded_after(f"import bertsmith.{module}")


@pytest.mark.parametrize(("prefix", "family"), [("Bert", "bert"), ("ModernBert", "modernbert")])
def test_reading_a_model_loads_no_compiler(prefix: str, family: str, tmp_path: Path) -> None:
    """It takes longer than all else that `fill` and `predict` do before the first answer."""
    code = f"""
from bertsmith.model import {prefix}Config, {prefix}PretrainingModel, load_model
config = {prefix}Config(
    vocab_size=50, hidden_size=64, num_attention_heads=1, num_hidden_layers=1, intermediate_size=8, pad_token_id=0
)
{prefix}PretrainingModel(config).save_pretrained("{tmp_path}")
assert load_model("{tmp_path}").config.model_type == "{family}"
"""
    loaded = loaded_after(code)
    assert "torch" in loaded
    assert "torch._dynamo" not in loaded


def test_training_loads_no_compiler_unless_it_compiles(text: Path, tmp_path: Path) -> None:
    """It takes seconds of what a run does before its first step (docs/log.md, "A start without the compiler")."""
    given = TINY | {"text": (str(text),)}
    code = (
        f"from pathlib import Path; from bertsmith.pretrain import pretrain; pretrain(Path('{tmp_path}/run'), {given})"
    )
    loaded = loaded_after(code)
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
    assert "torch._dynamo" not in loaded


def test_no_machine_path_or_registry_is_named() -> None:
    root = SOURCE.parents[1]
    tracked = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=False).stdout.split()
    if not tracked:
        pytest.skip("no git, or no checkout")
    for name in tracked:
        path = root / name
        if path.suffix in {".py", ".md", ".toml", ".txt"} or path.name in {"Makefile", "run"}:
            text = path.read_text(encoding="utf-8")
            assert "/wor" + "k/" not in text, name
            assert "pypi" + ".org" not in text, name
