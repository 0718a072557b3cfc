"""FTP accounts and cron jobs for a hosting panel, behind one REST API."""

__version__ = "0.1.0"
