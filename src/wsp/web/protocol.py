"""HTTP that is not HTTP is refused before there is a request; that answer has the contract's shape, too."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from wsp.web.failures import failure


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, with our words for what the parser could not read."""

    def send_400_response(self, msg: str) -> None:
        """Answer and close: what follows on the connection cannot be trusted either."""
        answer = failure(400, msg.rstrip("."), headers={"Connection": "close"})
        head = [b"HTTP/1.1 400 Bad Request", *(name + b": " + value for name, value in answer.raw_headers)]
        self.transport.write(b"\r\n".join([*head, b"", bytes(answer.body)]))
        self.transport.close()
