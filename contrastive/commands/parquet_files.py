"""Parquet files that commands write: checked before the work, written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from contrastive.errors import UsageError
from contrastive.files import require_replaceable, writable_by_user


def require_writable(
    out: str | Path, command: str, columns: Collection[str], optional: Collection[str] = ()
) -> Path:
    """The path of a table that a command may write.

    Args:
        out: as the user wrote it.
        command: its name.
        columns: of its tables.
        optional: further columns that they may have.

    Raises UsageError if its folder does not exist, or it is there and not a table that the command wrote.
    """
    path = require_folder(out)
    require_replaceable(path, _has_columns(columns, optional), f"a table that {command} wrote")
    return path


def require_folder(file: str | Path) -> Path:
    """The path of a file that is to be written. Raises UsageError if its folder does not exist."""
    path = Path(file)
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} does not exist; make the folder first.")
    return path


def _has_columns(columns: Collection[str], optional: Collection[str]) -> Callable[[Path], bool]:
    def is_ours(file: Path) -> bool:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            names = {*pq.read_schema(file).names}
        except (pa.ArrowException, OSError):
            return False
        return {*columns} <= names <= {*columns, *optional}

    return is_ours


def write_file(out: Path, write: Callable[[Path], Any]) -> Any:
    """Let ``write`` fill a file next to ``out``, which then takes its place. Returns what ``write`` does.

    Raises UsageError if it cannot be written.
    """
    partial = out.with_name(f".{out.name}.tmp")
    with writable_by_user(out):
        try:
            result = write(partial)
            partial.replace(out)
        finally:
            partial.unlink(missing_ok=True)
    return result


def write_columns(out: Path, columns: Mapping[str, Any]) -> None:
    """Write columns of equal length, arrays of Arrow, as a table. Raises UsageError if that fails."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_file(out, lambda file: pq.write_table(pa.table(dict(columns)), file))
