"""A headless Chromium for the tests of pages, driven by its DevTools protocol; needs no package."""

import fcntl
import json
import os
import shutil
import subprocess
import time

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, "End": 35}
KEYS |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
PATIENCE = 60  # seconds, for a machine that is busy
# The middle of an element that was there the last time, too; false otherwise.
AT_REST = """element => {
    const { x, y, width, height } = element.getBoundingClientRect();
    const [middle, before] = [[x + width / 2, y + height / 2], element.lastMiddle];
    element.lastMiddle = String(middle);
    const hit = document.elementFromPoint(...middle);
    return before === String(middle) && element.contains(hit) && middle;
}"""


class Browser:
    """A Chromium with one page, spoken to in JSON through two pipes; needs no package."""

    def __init__(self, program, folder):
        # Chromium reads from descriptor 3 and writes to 4. Ours are moved out of their way first.
        read_end, self.commands = os.pipe()
        self.answers, write_end = os.pipe()
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (read_end, write_end)]

        def place_pipes():
            os.dup2(theirs[0], 3)
            os.dup2(theirs[1], 4)

        self.process = subprocess.Popen(
            [
                program,
                "--headless=new",
                "--remote-debugging-pipe",
                "--no-sandbox",  # the page is our own, and root has no sandbox
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                f"--user-data-dir={folder / 'profile'}",
                "about:blank",
            ],
            preexec_fn=place_pipes,
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (read_end, write_end, *theirs):
            os.close(end)
        self.buffer, self.number, self.session, self.events = b"", 0, None, []
        self.origin = ""  # of the page that was opened; a file has none
        targets = self.send("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        attached = self.send("Target.attachToTarget", targetId=page, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method, **parameters):
        """One command's result. Events that arrive before it are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def receive(self):
        while b"\0" not in self.buffer:
            part = os.read(self.answers, 1 << 16)
            assert part, "Chromium has ended"
            self.buffer += part
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def run(self, expression):
        """The value of a JavaScript expression in the page."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression):
        end = time.monotonic() + PATIENCE
        while not (value := self.run(expression)):
            assert time.monotonic() < end, expression
            time.sleep(0.05)
        return value

    def open(self, url, width=1200, scheme="light"):
        self.run("unsaved = false")  # or leaving the page would ask
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", features=features)
        self.send("Page.navigate", url="about:blank")
        self.wait_for("location.href === 'about:blank'")
        self.events.clear()
        self.origin = url.split("/", 3)[2]
        self.send("Page.navigate", url=url)
        self.wait_for("location.protocol !== 'about:' && document.readyState === 'complete'")

    def press(self, key, text=""):
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=KEYS.get(key) or ord(key.upper()),
                text=text if kind == "keyDown" else "",
            )

    def click(self, selector):
        """Where the element is when it has come to rest and nothing lies over it."""
        self.run(f"document.querySelector({json.dumps(selector)}).scrollIntoView()")
        x, y = self.wait_for(f"({AT_REST})(document.querySelector({json.dumps(selector)}))")
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, selector, text):
        self.click(selector)
        self.send("Input.insertText", text=text)

    def complaints(self):
        """Errors and warnings of the console, exceptions, and what was asked of another place."""
        self.run("0")  # lets pending events arrive
        found = []
        for event in self.events:
            method, parameters = event.get("method"), event.get("params", {})
            if method in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
                found.append(parameters)
            elif method == "Network.requestWillBeSent":
                url = parameters["request"]["url"]
                here = (f"http://{self.origin}/",) if self.origin else ()
                if not url.startswith(("file:", "data:", "blob:", "about:", *here)):
                    found.append(url)
        return found

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.commands)
        os.close(self.answers)


def started_browser(tmp_path_factory):
    """What a fixture yields from; without a Chromium the test is skipped, with the reason."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("no Chromium: apt-get install chromium")
    started = Browser(program, tmp_path_factory.mktemp("chromium"))
    yield started
    started.close()
