"""The label set in other ecosystems' formats: COCO, PNG masks, nnU-Net v2, parquet."""

from dollkit.labels.exports.export import FORMATS, export

__all__ = ["FORMATS", "export"]
