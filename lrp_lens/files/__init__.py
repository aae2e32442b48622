"""Files: paths checked before the work, written as a whole; results as arrays and words under a checksum."""

from lrp_lens.files.paths import AnyPath, made_folder, read_json, replacing, require_writable, write_text

__all__ = ["AnyPath", "made_folder", "read_json", "replacing", "require_writable", "write_text"]
