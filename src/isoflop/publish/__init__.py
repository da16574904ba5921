"""From the store to one self-contained report. Leaves out every judgement: it shows what verdict.json says.

`publish` writes report.html, figures/, tables/ and manifest.json; `summary_text` says the same in a terminal.
"""

from isoflop.publish.evidence import PublishError
from isoflop.publish.report import Manifest, PublishResult, publish
from isoflop.publish.text import summary_text

__all__ = ["Manifest", "PublishError", "PublishResult", "publish", "summary_text"]
