"""Chromium without a window, by its DevTools protocol: open a page, run JavaScript in it, look at it."""
import base64,json,shutil,subprocess,tempfile,time
from pathlib import Path
from urllib.request import urlopen
from websocket import create_connection

program = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)

class Chromium:
    "A browser with one page, to be used in a `with` block"
    def __init__(self, timeout=120): self.timeout = timeout         # seconds of a call

    def __enter__(self):
        self.home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        flags = '--headless=new', '--no-sandbox', '--disable-gpu', '--hide-scrollbars', '--remote-debugging-port=0', '--remote-allow-origins=*'
        quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.process = subprocess.Popen([program, *flags, f'--user-data-dir={self.home.name}', 'about:blank'], **quiet)
        port = self.wait(self.port)
        pages = self.wait(lambda: json.load(urlopen(f'http://127.0.0.1:{port}/json/list', timeout=5)))
        self.socket = create_connection(next(p for p in pages if p['type']=='page')['webSocketDebuggerUrl'], timeout=self.timeout+10)
        self.n,self.errors = 0,[]
        for domain in ('Page', 'Runtime', 'Log'): self(f'{domain}.enable')
        return self

    def __exit__(self, *args):
        self.socket.close()
        self.process.terminate()
        self.process.wait(20)
        self.home.cleanup()

    def port(self): return (Path(self.home.name)/'DevToolsActivePort').read_text().split()[0]

    def wait(self, f):
        "The first result of a function that fails until something is there"
        end = time.monotonic()+self.timeout
        while True:
            try: return f()
            except (OSError, IndexError, StopIteration):
                if time.monotonic()>end: raise
                time.sleep(.1)

    def __call__(self, method, **params):
        "A command of the protocol, and its result. What the console reports as an error on the way is kept in `errors`"
        self.n += 1
        self.socket.send(json.dumps(dict(id=self.n, method=method, params=params)))
        while True:
            got = json.loads(self.socket.recv())
            if got.get('method')=='Runtime.exceptionThrown': self.errors.append(got['params']['exceptionDetails']['exception'].get('description', ''))
            if got.get('method')=='Log.entryAdded' and got['params']['entry']['level']=='error': self.errors.append(got['params']['entry']['text'])
            if got.get('id')!=self.n: continue
            if 'error' in got: raise RuntimeError(got['error']['message'])
            return got['result']

    def open(self, url):
        "Go to a page, and wait until it is there"
        self('Page.navigate', url=url)
        self.js("new Promise(f => document.readyState==='complete' ? f() : addEventListener('load', f))")

    def js(self, code):
        "The value of JavaScript, or of its promise"
        got = self('Runtime.evaluate', expression=code, awaitPromise=True, returnByValue=True, userGesture=True)
        if 'exceptionDetails' in got: raise RuntimeError(got['exceptionDetails'].get('exception', {}).get('description') or got['exceptionDetails']['text'])
        return got['result'].get('value')

    def until(self, code):
        "Wait until JavaScript gives something true; what fails is tried again"
        seconds = 1000*self.timeout
        self.js(f"""new Promise((done, fail) => {{ const end = Date.now()+{seconds};
            (function look() {{ let got = false; try {{ got = {code}; }} catch (e) {{ }}
            if (got) done(); else if (Date.now()>end) fail(new Error('It never came true.')); else setTimeout(look, 50); }})(); }})""")

    def look(self, width, height, dark=False):
        "Set the size of the window and the theme"
        self('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=width<600)
        self('Emulation.setEmulatedMedia', features=[dict(name='prefers-color-scheme', value='dark' if dark else 'light')])

    def picture(self, file): Path(file).write_bytes(base64.b64decode(self('Page.captureScreenshot', captureBeyondViewport=False)['data']))
