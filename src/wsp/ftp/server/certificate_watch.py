"""A thread that looks for new certificates, every few seconds and when it is told to."""

import logging
import threading

from wsp.ftp.server.tls import Certificates

LOOK_SECONDS = 2.0

logger = logging.getLogger(__name__)


class CertificateWatch:
    """Looks until `stop()`. A thread, because the folder may lie on a disk that does not answer."""

    def __init__(self, certificates: Certificates, *, seconds: float = LOOK_SECONDS) -> None:
        self._certificates = certificates
        self._seconds = seconds
        self._woken = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="certificate-watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def look_now(self) -> None:
        """Look at once, and take what is there as it is."""
        self._woken.set()

    def stop(self) -> None:
        """End the thread, soon."""
        self._stopping = True
        self._woken.set()

    def _run(self) -> None:
        while True:
            woken = self._woken.wait(self._seconds)
            self._woken.clear()
            if self._stopping:
                return
            try:
                self._certificates.look(at_once=woken)
            except Exception:
                logger.exception("looking for new certificates failed")
