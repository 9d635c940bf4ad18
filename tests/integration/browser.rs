//! A headless Chromium, driven through WebDriver (<https://www.w3.org/TR/webdriver2/>), where `chromium` and `chromedriver` are on
//! the PATH.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Under this name WebDriver hands out elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A page in a browser; both programs end with it.
pub(crate) struct Browser {
    driver: Child,
    agent: ureq::Agent,
    session: String,
}

impl Browser {
    /// A browser with an empty profile in a folder, or `None` where there is none.
    pub(crate) fn start(profile: &Path) -> Option<Self> {
        let here = |name: &str| {
            Command::new(name).arg("--version").output().is_ok_and(|found| found.status.success())
        };
        if !here("chromium") || !here("chromedriver") {
            eprintln!("chromium or chromedriver is not here: the page is NOT checked in a browser");
            return None;
        }
        let mut driver = Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.find_map(|line| {
            let line = line.unwrap();
            let (_, port) = line.split_once("started successfully on port ")?;
            Some(port.trim_end_matches('.').to_owned())
        });
        // What it says later is read, so that it does not wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        let config = ureq::Agent::config_builder().http_status_as_error(false);
        let agent = config.timeout_global(Some(Duration::from_secs(60))).build().into();
        let mut browser =
            Self { driver, agent, session: format!("http://127.0.0.1:{}/session", port.unwrap()) };
        let profile = format!("--user-data-dir={}", profile.display());
        let arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,900", &profile];
        let options = json!({"goog:chromeOptions": {"args": arguments}});
        let found = browser.post("", &json!({"capabilities": {"alwaysMatch": options}}));
        browser.session = format!("{}/{}", browser.session, found["sessionId"].as_str().unwrap());
        browser.post("/timeouts", &json!({"script": 50_000}));
        Some(browser)
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let url = format!("{}{path}", self.session);
        let mut response =
            self.agent.post(&url).header("content-type", "application/json").send(body.to_string()).unwrap();
        let text = response.body_mut().with_config().limit(64 << 20).read_to_string().unwrap();
        let mut answer: Value = serde_json::from_str(&text).unwrap();
        assert!(response.status().is_success(), "{path}: {answer}");
        answer["value"].take()
    }

    pub(crate) fn open(&self, url: &str) {
        self.post("/url", &json!({"url": url}));
    }

    /// Puts a text into a field, key by key, in place of the one that is there.
    pub(crate) fn write(&self, field: &str, text: &str) {
        let found = self.post("/element", &json!({"using": "css selector", "value": field}));
        let element = found[ELEMENT].as_str().unwrap();
        self.post(&format!("/element/{element}/clear"), &json!({}));
        self.post(&format!("/element/{element}/value"), &json!({"text": text}));
    }

    /// Runs a function's body in the page and returns its value; it may return a promise.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({"script": script, "args": []}))
    }

    /// Waits until a function's body returns something true.
    pub(crate) fn until(&self, script: &str) {
        let start = Instant::now();
        while self.run(script) != Value::Bool(true) {
            assert!(start.elapsed() < Duration::from_secs(40), "never true: {script}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _closed = self.agent.delete(&self.session).call();
        let _ended = self.driver.kill();
        let _waited = self.driver.wait();
    }
}
