//! A real browser, Chromium without a window, told what to do through its debugging pipe.
//!
//! The command line's own `--dump-dom` and `--screenshot` are not enough: they take a picture either at once, or after a
//! virtual time that does not pass while a page keeps a stream of events open, as the dashboard does.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::process::{GuardedChild, GuardedDir};

const PROGRAMS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
const PATIENCE: Duration = Duration::from_secs(60);

/// One page of a browser of its own. Dropping it ends the browser.
pub struct Page {
    commands: File,
    answers: Receiver<Value>,
    next_id: u64,
    session: String,
    /// Exceptions and errors that the page has brought about: text.
    complaints: Vec<String>,
    _browser: GuardedChild,
    _dir: GuardedDir,
}

/// The size of a window, in CSS pixels, and its colours.
#[derive(Debug, Clone, Copy)]
pub struct Looks {
    pub width: u32,
    pub height: u32,
    pub dark: bool,
}

impl Page {
    /// Starts a browser with an empty page.
    pub fn open() -> Self {
        let program = PROGRAMS.iter().find(|name| is_installed(name));
        let program =
            program.unwrap_or_else(|| panic!("none of {PROGRAMS:?} is there; run scripts/install.sh chromium"));
        let dir = GuardedDir::new("tallyguard-browser-");
        let pipe = |name: &str| {
            let path = dir.path().join(name);
            assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo").success(), "mkfifo");
            path
        };
        let (to, from) = (pipe("to"), pipe("from"));
        // Open in both directions, so that neither side waits for the other to open it.
        let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path).expect("a pipe");
        let (commands, from_browser) = (open(&to), open(&from));
        let mut shell = Command::new("sh");
        shell
            .arg("-c")
            .arg(
                "exec \"$0\" --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
                 --user-data-dir=\"$1\" --remote-debugging-pipe about:blank 3<\"$2\" 4>\"$3\"",
            )
            .args([Path::new(program), &dir.path().join("profile"), &to, &from])
            .stdout(Stdio::null())
            .stderr(File::create(dir.path().join("log")).expect("a log"));
        let browser = GuardedChild::spawn_with(&mut shell);
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(from_browser);
            let mut message = Vec::new();
            while reader.read_until(0, &mut message).is_ok_and(|read| read > 0) {
                message.pop();
                let Ok(value) = serde_json::from_slice(&message) else { break };
                if sender.send(value).is_err() {
                    break;
                }
                message.clear();
            }
        });
        let complaints = Vec::new();
        let mut page =
            Self { commands, answers, next_id: 0, session: String::new(), complaints, _browser: browser, _dir: dir };
        let target = page.call("Target.createTarget", &json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = page.call("Target.attachToTarget", &attach);
        page.session = attached["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            page.call(domain, &json!({}));
        }
        page
    }

    pub fn look(&mut self, looks: Looks) {
        let Looks { width, height, dark } = looks;
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", &metrics);
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", &media);
    }

    pub fn go_to(&mut self, url: &str) {
        let went = self.call("Page.navigate", &json!({"url": url}));
        assert!(went.get("errorText").is_none(), "{url}: {went}");
    }

    /// The value of an expression in the page; a promise is awaited.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let found = self.call("Runtime.evaluate", &asked);
        assert!(found.get("exceptionDetails").is_none(), "{expression}: {found}");
        found["result"]["value"].clone()
    }

    /// The text of the element with that id, as it can be read; empty when there is none.
    pub fn text(&mut self, id: &str) -> String {
        let found = self.evaluate(&format!("document.getElementById('{id}')?.innerText ?? ''"));
        found.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the text of that element holds all of `wanted`.
    #[track_caller]
    pub fn wait_for_text(&mut self, id: &str, wanted: &[&str]) -> String {
        let started = Instant::now();
        loop {
            let text = self.text(id);
            if wanted.iter().all(|wanted| text.contains(wanted)) {
                return text;
            }
            assert!(started.elapsed() < PATIENCE, "#{id} does not hold {wanted:?}: {text}\n{:?}", self.complaints);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A picture of what is to be seen, as PNG.
    pub fn screenshot(&mut self) -> Vec<u8> {
        let taken = self.call("Page.captureScreenshot", &json!({"format": "png"}));
        base64(taken["data"].as_str().expect("a picture"))
    }

    /// Exceptions and errors so far, those of the network left out.
    pub fn complaints(&mut self) -> &[String] {
        self.evaluate("0");
        &self.complaints
    }

    fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.next_id += 1;
        let mut message = json!({"id": self.next_id, "method": method, "params": parameters});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.commands.write_all(&bytes).expect("the browser takes commands");
        loop {
            let answer = self.answers.recv_timeout(PATIENCE);
            let answer = answer.unwrap_or_else(|_| panic!("the browser does not answer {method}"));
            if answer["id"] == json!(self.next_id) {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.note(&answer);
        }
    }

    fn note(&mut self, event: &Value) {
        let parameters = &event["params"];
        match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => self.complaints.push(parameters.to_string()),
            Some("Log.entryAdded")
                if parameters["entry"]["level"] == "error" && parameters["entry"]["source"] != "network" =>
            {
                self.complaints.push(parameters.to_string());
            }
            _ => {}
        }
    }
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn base64(text: &str) -> Vec<u8> {
    let value = |character: u8| match character {
        b'A'..=b'Z' => Some(character - b'A'),
        b'a'..=b'z' => Some(character - b'a' + 26),
        b'0'..=b'9' => Some(character - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits: Vec<u8> = text.bytes().filter_map(value).collect();
    let bytes = digits.chunks(4).flat_map(|chunk| {
        let joined =
            chunk.iter().fold(0_u32, |joined, digit| joined << 6 | u32::from(*digit)) << (6 * (4 - chunk.len()));
        joined.to_be_bytes()[1..chunk.len()].to_vec()
    });
    bytes.collect()
}
