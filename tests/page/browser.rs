//! Chromium without a window, on the page of a server. Debian's `chromium` and `chromium-driver` have what it needs.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::common::DEADLINE;
use crate::webdriver::{Element, Session};

/// A browser with a profile of its own.
pub(crate) struct Browser {
    session: Session,
    folder: PathBuf,
}

/// A row of the log: its classes, and the text of its cells.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) style: String,
    pub(crate) cells: Vec<String>,
}

/// Runs `test` with a browser, which is ended in any case; skips aloud where there is none.
pub(crate) fn browse(test: impl AsyncFnOnce(&Browser)) {
    // One at a time: each is a handful of processes.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (Some(chromium), Some(chromedriver)) = (find("chromium"), find("chromedriver")) else {
        println!("SKIPPED: chromium and chromedriver are not installed (Debian: chromium, chromium-driver)");
        return;
    };
    let folder = own_folder();
    let mut driver = Driver::start(&chromedriver);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let outcome = runtime.block_on(async {
        let browser = Browser::start(&driver, &chromium, folder.clone()).await;
        let outcome = AssertUnwindSafe(test(&browser)).catch_unwind().await;
        // The driver ends Chromium with the session, and with nothing else.
        browser.session.end().await.expect("the session ends");
        outcome
    });
    driver.end();
    let _ = fs::remove_dir_all(&folder);
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
}

impl Browser {
    async fn start(driver: &Driver, chromium: &Path, folder: PathBuf) -> Self {
        let profile = format!("--user-data-dir={}", folder.join("profile").display());
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            &profile,
        ];
        let downloads = folder.join("downloads");
        fs::create_dir_all(&downloads).expect("a folder in target");
        let capabilities = json!({
            "browserName": "chrome",
            "goog:chromeOptions": {
                "binary": chromium,
                "args": arguments,
                "prefs": { "download.default_directory": downloads },
            },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let session = Session::start(driver.port, capabilities).await.expect("chromedriver starts chromium");
        Self { session, folder }
    }

    /// Where a test may put files that end with the browser.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) async fn open(&self, url: &str) {
        self.session.open(url).await.expect("the page loads");
    }

    pub(crate) async fn element(&self, css: &str) -> Element<'_> {
        self.session.find(css).await.unwrap_or_else(|error| panic!("{css}: {error}"))
    }

    pub(crate) async fn click(&self, css: &str) {
        // chromedriver would scroll it below the header, which stays where it is.
        let scroll = format!("document.querySelector({}).scrollIntoView({{ block: 'center' }})", json!(css));
        self.value(&scroll).await;
        self.element(css).await.click().await.unwrap_or_else(|error| panic!("{css}: {error}"));
    }

    /// Types into a field in the place of what is in it.
    pub(crate) async fn enter(&self, css: &str, text: &str) {
        let field = self.element(css).await;
        field.clear().await.expect("a field");
        field.send_keys(text).await.expect("a field");
    }

    /// Types into whatever has the focus.
    pub(crate) async fn press(&self, keys: &str) {
        self.session.active().await.expect("a page").send_keys(keys).await.expect("a page");
    }

    /// The value of an expression in the page.
    pub(crate) async fn value(&self, expression: &str) -> Value {
        let value = self.session.execute(&format!("return {expression};")).await;
        value.unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    pub(crate) async fn text(&self, css: &str) -> String {
        let text = self.value(&format!("document.querySelector({}).textContent", json!(css))).await;
        text.as_str().expect("text").to_owned()
    }

    /// Waits until an expression is true in the page.
    pub(crate) async fn wait_for(&self, expression: &str) {
        let deadline = Instant::now() + DEADLINE;
        while self.value(expression).await != Value::Bool(true) {
            if Instant::now() >= deadline {
                panic!(
                    "not within {DEADLINE:?}: {expression}\n{}\n{:?}",
                    self.text("#state").await,
                    self.rows().await
                );
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn wait_for_state(&self, state: &str) {
        self.wait_for(&format!("document.getElementById('state').dataset.state === {}", json!(state))).await;
    }

    /// Waits until the log has so many rows, and gives them.
    pub(crate) async fn wait_for_rows(&self, count: usize) -> Vec<Row> {
        self.wait_for(&format!("document.querySelectorAll('#log tr').length >= {count}")).await;
        self.rows().await
    }

    pub(crate) async fn rows(&self) -> Vec<Row> {
        let rows = "Array.from(document.querySelectorAll('#log tr'), (row) => \
                    [row.className, ...Array.from(row.cells, (cell) => cell.textContent)])";
        let rows: Vec<Vec<String>> = serde_json::from_value(self.value(rows).await).expect("lists of texts");
        let row_of = |mut texts: Vec<String>| Row { style: texts.remove(0), cells: texts };
        rows.into_iter().map(row_of).collect()
    }

    /// What the browser has logged since the last call: exceptions, breaches of the policy, failed requests.
    pub(crate) async fn console(&self) -> Vec<String> {
        let entries = self.vendor("se/log", json!({ "type": "browser" })).await;
        let entries = entries.as_array().expect("a list of entries");
        entries.iter().map(|entry| entry["message"].as_str().expect("a message").to_owned()).collect()
    }

    /// A command of the DevTools protocol.
    pub(crate) async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.vendor("goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await
    }

    /// Keeps what is to be seen under `target/`.
    pub(crate) async fn keep_screenshot(&self, name: &str) {
        let png = self.session.screenshot().await.expect("a screenshot");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
        fs::create_dir_all(&folder).expect("a folder in target");
        fs::write(folder.join(name), png).expect("a file in target");
    }

    /// The content of a file that the page has offered, once it is there.
    pub(crate) async fn downloaded(&self, name: &str) -> String {
        let path = self.folder.join("downloads").join(name);
        let deadline = Instant::now() + DEADLINE;
        // Chromium gives the name to a file that is complete.
        while !path.exists() {
            assert!(Instant::now() < deadline, "{name} is not downloaded");
            sleep(Duration::from_millis(20)).await;
        }
        fs::read_to_string(path).expect("text")
    }

    /// A command of chromedriver's own.
    async fn vendor(&self, path: &str, parameters: Value) -> Value {
        self.session.post(path, parameters).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

/// chromedriver, which is killed when dropped.
struct Driver {
    child: Child,
    port: u16,
}

impl Driver {
    fn start(program: &Path) -> Self {
        let mut command = Command::new(program);
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("chromedriver runs");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let port = lines.find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse().ok()
        });
        // It goes on writing there.
        std::thread::spawn(move || lines.for_each(drop));
        let Some(port) = port else {
            let _ = child.kill();
            panic!("chromedriver does not say its port: {:?}", child.wait());
        };
        Self { child, port }
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.end();
    }
}

/// An empty folder that no other test has.
fn own_folder() -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("browser-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).expect("a folder in target");
    folder
}

fn find(program: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths).map(|folder| folder.join(program)).find(|path| path.is_file())
}
