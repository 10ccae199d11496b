"""What may become state: the one place where an envelope from outside is believed, or not."""

from gateway.trust.admission import AdmittedRecords, NotAdmitted, Source, admit

__all__ = ["AdmittedRecords", "NotAdmitted", "Source", "admit"]
