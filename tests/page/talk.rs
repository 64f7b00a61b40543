//! What a person does with the page, done by a program.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::browser::{Browser, Row, browse};
use crate::common::{self, DEADLINE, Server, pattern};

/// The Enter key as WebDriver has it.
const ENTER: &str = "\u{E007}";

#[test]
fn texts_and_binaries_come_back_and_stand_in_the_log() {
    browse(async |browser| {
        // What HTML would take for markup is in a path that a browser sends as it is.
        let server = Server::start("auto", &["--path", "/it's&amp;ws"]);
        browser.open(&format!("http://{}/?query#fragment", server.address)).await;
        assert_eq!(browser.text("#state-name").await, "Ready to connect");
        let url = browser.value("document.getElementById('url').value").await;
        assert_eq!(url, format!("ws://{}/it's&amp;ws", server.address));
        browser.click("#send").await;
        assert_eq!(browser.text("#message-fault").await, "Connect first.");

        browser.click("#connect").await;
        browser.wait_for_state("open").await;
        browser.enter("#message", "gr\u{FC}\u{DF}e \u{20AC}").await;
        browser.press(ENTER).await;
        let rows = browser.wait_for_rows(3).await;
        assert_eq!(rows[0].cells[1], "Connection opened");
        assert_message(&rows[1], "sent", ["Client", "Server", "gr\u{FC}\u{DF}e \u{20AC}", "text", "11 B"]);
        assert_message(&rows[2], "echo", ["Server", "Client", "gr\u{FC}\u{DF}e \u{20AC}", "text", "11 B"]);
        assert_eq!(browser.text("#message-fault").await, "");

        browser.click("input[value=hex]").await;
        browser.enter("#message", "0g").await;
        browser.click("#send").await;
        browser.wait_for("document.getElementById('message-fault').textContent.startsWith('Hex has')").await;
        browser.enter("#message", "00 ff, 0x10").await;
        browser.click("#send").await;
        let rows = browser.wait_for_rows(5).await;
        assert_message(&rows[3], "sent", ["Client", "Server", "00 ff 10", "binary", "3 B"]);
        assert_message(&rows[4], "echo", ["Server", "Client", "00 ff 10", "binary", "3 B"]);

        let file = browser.folder().join("a file");
        fs::write(&file, pattern(200_000)).expect("a file in target");
        browser.click("input[value=file]").await;
        browser.element("#file").await.send_keys(file.to_str().expect("UTF-8")).await.expect("a field");
        browser.click("#send").await;
        let rows = browser.wait_for_rows(7).await;
        assert_eq!(rows[6].cells[4..6], ["binary", "195.3 KiB"]);
        assert_eq!(rows[6].style, "echo");
        assert!(rows[6].cells[3].ends_with('…'), "the log keeps its beginning");

        browser.click("input[value=text]").await;
        browser.enter("#message", "").await;
        browser.click("#send").await;
        let rows = browser.wait_for_rows(9).await;
        assert_message(&rows[8], "echo", ["Server", "Client", "", "text", "0 B"]);
        assert_eq!((server.counter("texts"), server.counter("binaries")), (2, 2));
        assert_eq!(browser.console().await, [""; 0]);
    });
}

#[test]
fn hostile_data_is_text() {
    browse(async |browser| {
        let hostile = "<img src=x onerror=\"window.broken = 1\"></td><script>window.broken = 2</script>&lt;";
        let server = connected(browser, &[]).await;
        browser.enter("#message", hostile).await;
        browser.press(ENTER).await;
        let rows = browser.wait_for_rows(3).await;
        assert_message(
            &rows[2],
            "echo",
            ["Server", "Client", hostile, "text", &format!("{} B", hostile.len())],
        );
        browser.enter("#close-reason", hostile).await;
        browser.click("#close").await;
        browser.wait_for_state("closed").await;
        assert!(browser.text("#state-detail").await.contains(hostile), "the reason is shown");
        assert!(browser.wait_for_rows(4).await[3].cells[1].contains(hostile), "the reason is in the log");
        assert_eq!(browser.value("document.images.length + document.scripts.length").await, 1);
        assert_eq!(browser.value("typeof window.broken").await, "undefined");
        assert_eq!(browser.console().await, [""; 0]);

        // And if the page did it, the browser would refuse.
        let refused =
            browser.value("(() => { try { document.body.innerHTML = '<p>'; } catch { return true; } })()");
        assert_eq!(refused.await, true);
        drop(server);
    });
}

#[test]
fn a_close_has_a_code_and_a_reason() {
    browse(async |browser| {
        let server = connected(browser, &[]).await;
        for (code, reason, fault) in [
            ("1001", "", "Browsers send 1000 and 3000 to 4999 only"),
            ("x", "", "Browsers send 1000 and 3000 to 4999 only"),
            ("", "why", "A reason needs a code"),
            ("1000", &"\u{20AC}".repeat(42), "at most 123 bytes; this has 126"),
        ] {
            browser.enter("#close-code", code).await;
            browser.enter("#close-reason", reason).await;
            browser.click("#close").await;
            let said = browser.text("#close-fault").await;
            assert!(said.contains(fault), "{code} {reason}: {said}");
        }
        browser.enter("#close-code", "4321").await;
        browser.enter("#close-reason", "that's all").await;
        browser.press(ENTER).await;
        browser.wait_for_state("closed").await;
        let words = "Connection closed. Code: 4321. Reason: that's all.";
        assert_eq!(browser.text("#state-detail").await, words);
        assert_eq!(browser.wait_for_rows(2).await[1].cells[1], words);
        server.wait_for_counter("ended", 2);

        browser.click("#connect").await;
        browser.wait_for_state("open").await;
        browser.enter("#close-code", "").await;
        browser.enter("#close-reason", "").await;
        browser.click("#close").await;
        browser.wait_for_state("closed").await;
        assert_eq!(browser.text("#state-detail").await, "Connection closed. Code: 1005 (none was given).");
        assert_eq!(browser.console().await, [""; 0]);
    });
}

#[test]
fn what_stands_in_the_way_of_a_connection_is_said() {
    browse(async |browser| {
        let server = Server::start("auto", &[]);
        browser.open(&format!("http://{}/", server.address)).await;
        browser.enter("#protocols", "chat.v1, chat.v2").await;
        browser.click("#connect").await;
        browser.wait_for_state("failed").await;
        let words = browser.text("#state-detail").await;
        assert!(
            words.contains("You offered the sub-protocols chat.v1, chat.v2: where the server selects none"),
            "{words}"
        );
        assert_eq!(browser.wait_for_rows(1).await[0].cells[1], words);

        browser.enter("#protocols", "not a token").await;
        browser.click("#connect").await;
        browser.wait_for("document.getElementById('connect-fault').textContent !== ''").await;
        browser.enter("#protocols", "").await;
        let url = browser.value("document.getElementById('url').value").await;
        browser.enter("#url", "ws://[").await;
        browser.click("#connect").await;
        browser.wait_for("document.getElementById('connect-fault').textContent !== ''").await;

        browser.enter("#url", &format!("ws://{}/nothing", server.address)).await;
        browser.click("#connect").await;
        browser
            .wait_for(
                "document.getElementById('state-detail').textContent.includes('Browsers do not say why')",
            )
            .await;
        browser.wait_for_state("failed").await;
        browser.enter("#url", url.as_str().expect("text")).await;
        browser.press(ENTER).await;
        browser.wait_for_state("open").await;
    });
}

#[test]
fn a_server_that_stops_is_seen_and_connected_to_again_when_it_is_back() {
    browse(async |browser| {
        let server = connected(browser, &[]).await;
        let address = server.address.to_string();
        stop(server);
        browser.wait_for_state("waiting").await;
        let rows = browser.wait_for_rows(2).await;
        assert_eq!(rows[1].cells[1], "Connection closed. Code: 1001 (going away).");
        wait_for_attempt(browser, "(2|10|30)").await;

        let server = started_at(&address);
        browser.wait_for_state("open").await;
        browser.enter("#message", "again").await;
        browser.press(ENTER).await;
        browser.wait_for("document.querySelector('#log tr.echo') !== null").await;

        browser.click("#reconnect").await;
        stop(server);
        browser.wait_for_state("closed").await;
        browser.click("#reconnect").await;
        let server = started_at(&address);
        browser.click("#connect").await;
        browser.wait_for_state("open").await;
        stop(server);
        // Long enough to do something else meanwhile.
        wait_for_attempt(browser, "(10|30)").await;
        browser.click("#close").await;
        browser.wait_for_state("closed").await;
        assert_eq!(browser.text("#state-detail").await, "No further attempt to reconnect.");
        let complaints = browser.console().await;
        assert!(complaints.iter().all(|line| line.contains("WebSocket connection to")), "{complaints:?}");
    });
}

#[test]
fn a_repeat_has_percentiles() {
    browse(async |browser| {
        let server = connected(browser, &[]).await;
        for (rate, text) in [("0", "one by one"), ("1000", "by the clock")] {
            browser.click("#clear").await;
            browser.enter("#message", text).await;
            browser.enter("#repeat-rate", rate).await;
            browser.press(ENTER).await;
            browser.wait_for("document.getElementById('repeat-echoed').textContent === '200 of 200'").await;
            browser.wait_for("document.getElementById('repeat').textContent === 'Start'").await;
            let rows = browser.wait_for_rows(401).await;
            assert_message(
                &rows[399],
                "echo",
                ["Server", "Client", text, "text", &format!("{} B", text.len())],
            );
            assert!(rows[400].cells[1].starts_with("Repeat: 200 of 200 echoed, p50 "), "{:?}", rows[400]);
            let mut last = 0.0;
            for name in ["p50", "p90", "p99", "max"] {
                let figure = milliseconds(&browser.text(&format!("#repeat-{name}")).await);
                assert!(figure >= last, "{name} {figure} {last}");
                last = figure;
            }
            assert!(last > 0.0, "a round trip takes time");
            let points = browser.value("document.getElementById('spark-line').points.numberOfItems").await;
            assert_eq!(points, 200);
            let label = browser.value("document.getElementById('spark').getAttribute('aria-label')").await;
            let label = label.as_str().expect("text");
            assert!(label.starts_with("Round-trip times of the last 200 echoes: "), "{label}");
            browser.value("document.getElementById('repeat-echoed').textContent = ''").await;
        }
        assert_eq!(server.counter("texts"), 400);
        assert_eq!(browser.console().await, [""; 0]);
    });
}

#[test]
fn a_long_repeat_leaves_a_short_log_and_can_be_stopped() {
    browse(async |browser| {
        let server = connected(browser, &[]).await;
        browser.enter("#repeat-count", "100000").await;
        browser.enter("#repeat-rate", "2000").await;
        browser.press(ENTER).await;
        server.wait_for_counter("texts", 2000);
        browser.click("#repeat").await;
        browser.wait_for("document.getElementById('repeat').textContent === 'Start'").await;
        browser.wait_for("document.querySelectorAll('#log tr').length === 1000").await;
        let note = browser.text("#log-note").await;
        assert!(note.starts_with("The last 1,000 of "), "{note}");
        browser.click("#clear").await;
        browser.enter("#message", "still alive").await;
        browser.press(ENTER).await;
        browser
            .wait_for(
                "document.querySelector('#log tr.echo:last-child .data')?.textContent === 'still alive'",
            )
            .await;
        assert_eq!(browser.console().await, [""; 0]);
    });
}

#[test]
fn the_log_can_be_taken_along() {
    browse(async |browser| {
        let server = connected(browser, &[]).await;
        browser.enter("#message", "=1+1,\"quoted\"").await;
        browser.press(ENTER).await;
        browser.wait_for_rows(3).await;
        browser.click("#export-json").await;
        let json: Value = serde_json::from_str(&browser.downloaded("ringback-log.json").await).expect("JSON");
        let entries = json.as_array().expect("a list");
        assert_eq!(entries.len(), 3);
        assert_eq!(entries[0]["type"], "event");
        assert_eq!(entries[2]["from"], "Server");
        assert_eq!(entries[2]["data"], "=1+1,\"quoted\"");
        assert_eq!(entries[2]["size_bytes"], 13);
        assert!(entries[2]["round_trip_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{json}");

        browser.click("#export-csv").await;
        let csv = browser.downloaded("ringback-log.csv").await;
        let lines: Vec<_> = csv.split("\r\n").collect();
        assert_eq!(lines[0], "time,from,to,data,data_cut,type,size_bytes,round_trip_ms");
        assert!(
            lines[2].contains(",Client,Server,\"'=1+1,\"\"quoted\"\"\",false,text,13,"),
            "no formula: {csv}"
        );
        assert_eq!(lines.len(), 5, "{csv}");

        browser.click("#clear").await;
        assert_eq!(browser.rows().await, []);
        assert_eq!(browser.console().await, [""; 0]);
        drop(server);
    });
}

/// A server, and its page with an open connection.
pub(crate) async fn connected(browser: &Browser, more: &[&str]) -> Server {
    let server = Server::start("auto", more);
    browser.open(&format!("http://{}/", server.address)).await;
    browser.click("#connect").await;
    browser.wait_for_state("open").await;
    server
}

/// Waits until the page says that it connects again in so many seconds.
async fn wait_for_attempt(browser: &Browser, seconds: &str) {
    let said = "document.getElementById('state-detail').textContent";
    browser
        .wait_for(&format!("/Next attempt in {seconds} s, at \\d\\d:\\d\\d:\\d\\d\\./.test({said})"))
        .await;
}

fn stop(server: Server) {
    server.signal(Signal::TERM);
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0), "{log:?}");
}

/// A server on the port that another had; waits while somebody else has it.
fn started_at(address: &str) -> Server {
    let deadline = std::time::Instant::now() + DEADLINE;
    loop {
        match Server::try_spawn(common::command(&["--listen", address, "--workers", "1"])) {
            Ok(server) => return server,
            Err((status, log)) => {
                assert!(std::time::Instant::now() < deadline, "{address}: {status} {log:?}");
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        }
    }
}

/// Time and round trip may be any, but the latter is that of an echo only.
#[track_caller]
fn assert_message(row: &Row, style: &str, cells: [&str; 5]) {
    assert_eq!(row.style, style, "{row:?}");
    assert_eq!(row.cells[1..6], cells, "{row:?}");
    assert_eq!(row.cells[0].len(), "12:34:56.789".len(), "{row:?}");
    if style == "echo" {
        assert!(milliseconds(&row.cells[6]) > 0.0, "{row:?}");
    } else {
        assert_eq!(row.cells[6], "", "{row:?}");
    }
}

#[track_caller]
fn milliseconds(text: &str) -> f64 {
    let number = text.strip_suffix(" ms").unwrap_or_else(|| panic!("no milliseconds: {text}"));
    number.parse().expect("a number")
}
