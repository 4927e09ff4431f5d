"""Files from elsewhere in the project that a function asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import ConfigError
from runtime.project import static
from runtime.project.load import load
from runtime.project.settings import Function, Options
from runtime.project.snapshot import take

from .conftest import Write

FILES = {
    "assets/logo.svg": "logo",
    "assets/deep/er/page.html": "page",
    "assets/.env": "SECRET=1",
    "assets/.hidden/key.txt": "SECRET",
    "assets/node_modules/x.html": "x",
    "supabase/templates/mail.html": "mail",
    "supabase/.functions/keys.json": "SECRET",
    "supabase/config.toml": "",
    "functions/hello/index.py": "handler = 1",
    "functions/_shared/style.css": "css",
    ".env": "SECRET=2",
    "terms.txt": "terms",
}


def function(root: Path, *patterns: str) -> Function:
    return Function(
        name="hello",
        directory=str(root / "functions/hello"),
        root=str(root),
        static_files=patterns,
    )


def found(root: Path, *patterns: str) -> list[str]:
    return [str(Path(path).relative_to(root)) for path in static.find(function(root, *patterns)).files]


@pytest.mark.parametrize(
    ("pattern", "files"),
    [
        ("assets/logo.svg", ["assets/logo.svg"]),
        ("./assets/logo.svg", ["assets/logo.svg"]),
        ("assets/*", ["assets/logo.svg"]),
        ("assets/*.svg", ["assets/logo.svg"]),
        ("assets/l?g[no].svg", ["assets/logo.svg"]),
        ("assets/**", ["assets/deep/er/page.html", "assets/logo.svg"]),
        ("assets/**/*.html", ["assets/deep/er/page.html"]),
        ("assets/**/page.html", ["assets/deep/er/page.html"]),
        ("**/page.html", ["assets/deep/er/page.html"]),
        ("assets/*/*/page.html", ["assets/deep/er/page.html"]),
        ("assets/*/page.html", []),
        ("assets", ["assets/deep/er/page.html", "assets/logo.svg"]),
        ("terms.txt", ["terms.txt"]),
        ("*.txt", ["terms.txt"]),
        ("../functions/_shared/*.css", ["functions/_shared/style.css"]),
        ("assets/nothing/*", []),
    ],
)
def test_a_pattern_matches(write: Write, pattern: str, files: list[str]) -> None:
    assert found(write(FILES), pattern) == files


@pytest.mark.parametrize(
    ("pattern", "file"),
    [
        ("templates/*.html", "supabase/templates/mail.html"),
        ("supabase/templates/*.html", "supabase/templates/mail.html"),
        ("../../supabase/templates/*.html", "supabase/templates/mail.html"),
        ("../assets/*.svg", "assets/logo.svg"),
        ("../../assets/*.svg", "assets/logo.svg"),
    ],
)
def test_a_pattern_starts_in_supabase_in_the_project_or_beside_the_entry_file(
    write: Write, pattern: str, file: str
) -> None:
    assert found(write(FILES), pattern) == [file]


def test_the_first_place_that_has_files_is_meant(write: Write) -> None:
    root = write({"assets/a.txt": "", "supabase/assets/b.txt": "", "functions/hello/index.py": ""})
    assert found(root, "assets/*.txt") == ["supabase/assets/b.txt"]


@pytest.mark.parametrize(
    "pattern",
    [".env", "*", "**", "assets/.env", "assets/*env", "assets/.hidden/*", "assets/.*", "**/key*",
     "supabase/.functions/*", "supabase/config.toml", "config.toml", "*.toml"],
)  # fmt: skip
def test_no_pattern_reaches_a_dot_file_or_the_configuration(write: Write, pattern: str) -> None:
    root = write(FILES)
    files = static.find(function(root, pattern)).files
    assert not any("SECRET" in Path(path).read_text() or path.endswith("config.toml") for path in files)


def test_a_link_out_of_the_project_or_to_a_dot_file_is_refused_and_told(write: Write) -> None:
    root = write({f"project/{name}": text for name, text in FILES.items()} | {"secret.txt": "SECRET"})
    root = root / "project"
    (root / "assets/out.txt").symlink_to("../../secret.txt")
    (root / "assets/hidden.txt").symlink_to("../.env")
    (root / "assets/inside.txt").symlink_to("../terms.txt")
    (root / "elsewhere").symlink_to("/")  # which nobody wants to be searched
    files, notes = static.find(function(root, "assets/*.txt", "elsewhere/**/*.txt"))
    assert files == [f"{root}/assets/inside.txt"]
    told = sorted(note.split(": ")[2].split(" ")[0] for note in notes)
    assert told == [f"{root}/{name}" for name in ("assets/hidden.txt", "assets/out.txt", "elsewhere")]
    assert all("it leads out of the project, or to what begins with a dot" in note for note in notes)


def test_the_configuration_is_left_out_without_a_word(write: Write) -> None:
    root = write(FILES)
    (root / "assets/mine.toml").symlink_to("../supabase/config.toml")
    files, notes = static.find(function(root, "supabase/**"))
    assert ([Path(path).name for path in files], notes) == (["mail.html"], [])
    assert static.find(function(root, "assets/*.toml")).files == []


def test_the_configuration_is_left_out_also_where_its_folder_is_reached_by_a_link(write: Write) -> None:
    root = write(FILES)
    (root / "linked").symlink_to("supabase")
    assert found(root, "linked/**/*.html") == ["linked/templates/mail.html"]
    assert found(root, "linked/**") == ["linked/templates/mail.html"]


def test_a_name_with_a_dot_is_not_even_entered(write: Write) -> None:
    root = write(FILES)
    (root / ".link").symlink_to("assets")
    assert found(root, ".link/*") == []
    assert found(root, "assets/*") == ["assets/logo.svg"]


def test_the_project_may_itself_be_a_link(write: Write, tmp_path: Path) -> None:
    real = write({f"real/{name}": text for name, text in FILES.items()}) / "real"
    (tmp_path / "link").symlink_to(real)
    assert found(tmp_path / "link", "assets/*.svg") == ["assets/logo.svg"]


@pytest.mark.parametrize("pattern", ["/etc/passwd", "../../../*", "/etc/**", "../../../../x"])
def test_a_pattern_outside_the_project_is_a_mistake_that_names_it(write: Write, pattern: str) -> None:
    root = write(FILES | {"supabase/config.toml": f"[functions.hello]\nstatic_files = ['{pattern}']"})
    project = load(Options(root=str(root)), {})
    with pytest.raises(ConfigError, match="lies outside the project") as failure:
        take(project.functions["hello"])
    assert str(failure.value).startswith(f"{root}/supabase/config.toml: functions.hello.static_files: ")
    assert pattern in str(failure.value)


def test_a_pattern_outside_the_project_is_no_other_functions_trouble(write: Write) -> None:
    config = {"supabase/config.toml": "[functions.hello]\nstatic_files = ['/etc/*']"}
    project = load(Options(root=str(write(FILES | config | {"functions/other/index.py": ""}))), {})
    assert take(project.functions["other"]).files
    assert not [note for note in project.notes if "/etc" in note]


def test_only_places_inside_the_project_are_watched(write: Write) -> None:
    root = write({f"project/{name}": text for name, text in FILES.items()} | {"out/x.html": ""}) / "project"
    (root / "away").symlink_to("../out")
    (root / "near").symlink_to("assets")
    found = static.places([function(root, "away/**/*.html", "near/*.html", ".git/*", "/etc/*")])
    assert {path: deep for path, deep in found.items() if Path(path).is_dir()} == {f"{root}/near": False}


def test_a_pattern_that_matches_nothing_is_a_note(write: Write) -> None:
    root = write(FILES | {"supabase/config.toml": "[functions.hello]\nstatic_files = ['*.nope', '.env']"})
    notes = [note for note in load(Options(root=str(root)), {}).notes if "static_files" in note]
    assert [note.split('"')[1] for note in notes] == ["*.nope", ".env"]
    assert all("matches no file" in note for note in notes)


def test_static_files_keep_their_place_in_the_snapshot(write: Write) -> None:
    root = write(FILES)
    plain = take(function(root))
    taken = take(function(root, "assets/**", "functions/_shared/style.css"))
    assert taken.files == {
        "hello/index.py": b"handler = 1",
        "_shared/style.css": b"css",
        "../assets/logo.svg": b"logo",
        "../assets/deep/er/page.html": b"page",
    }
    assert taken.digest != plain.digest
    (root / "assets/logo.svg").write_text("new!")
    assert take(function(root, "assets/**", "functions/_shared/style.css")).digest != taken.digest
    assert take(function(root)) == plain


def test_static_files_are_found_where_the_functions_folder_is_a_link(write: Write) -> None:
    root = write({"supabase/functions/hello/index.py": "", "assets/logo.svg": "logo"})
    (root / "functions").symlink_to("supabase/functions")
    assert take(function(root, "assets/*")).files == {"hello/index.py": b"", "../assets/logo.svg": b"logo"}


def test_the_places_to_be_watched_are_told(write: Write) -> None:
    root = write(FILES)
    places = static.places([function(root, "assets/*.svg"), function(root, "data/**/*.csv")])
    assert (places[str(root / "assets")], places[str(root / "data")]) == (False, True)
    assert static.places([function(root, "*.txt")])[str(root)] is False
    assert static.places([function(root, "**/*.txt")])[str(root)] is True
