"""Show _site/ to a browser on this machine: programs in a page load only from a server.
usage: python .ci/site/serve.py     prints the address, until Ctrl+C"""
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

site = Path(__file__).resolve().parents[2]/'_site'

class Handler(SimpleHTTPRequestHandler):
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {'.js': 'text/javascript', '.mjs': 'text/javascript',
                                                                '.wasm': 'application/wasm'}
    def log_message(self, *args): pass

@contextmanager
def served():
    "Serve the site in a thread; gives its address, without a slash at the end."
    with ThreadingHTTPServer(('127.0.0.1', 0), partial(Handler, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()

if __name__ == '__main__':
    with served() as address:
        print(f'{address}/index.html')
        try: threading.Event().wait()
        except KeyboardInterrupt: pass
