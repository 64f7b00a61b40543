//! What the page looks like, on a desk and on a phone, and how it is without a mouse.

use serde_json::{Value, json};

use crate::browser::{Browser, browse};
use crate::common::Server;
use crate::talk::connected;

const TAB: &str = "\u{E004}";
const ENTER: &str = "\u{E007}";

#[test]
fn it_fits_a_desk_and_a_phone_in_light_and_dark() {
    browse(async |browser| {
        let server = connected(browser, &[]).await;
        fill(browser).await;
        for (screen, width, height) in [("desk", 1280, 860), ("tablet", 800, 1100), ("phone", 360, 740)] {
            let metrics =
                json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500 });
            browser.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
            for scheme in ["light", "dark"] {
                let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
                browser.devtools("Emulation.setEmulatedMedia", json!({ "features": [feature] })).await;
                let is_dark = browser.value("matchMedia('(prefers-color-scheme: dark)').matches").await;
                assert_eq!(is_dark, scheme == "dark");
                browser.value("window.scrollTo(0, 0)").await;
                browser.keep_screenshot(&format!("{screen}-{scheme}.png")).await;
                assert_contrast(browser).await;
            }
            let state =
                browser.value("document.getElementById('state').getBoundingClientRect().toJSON()").await;
            let (left, top) = (state["left"].as_f64(), state["top"].as_f64());
            assert!(left.is_some_and(|left| left < 24.0) && top.is_some_and(|top| top < 24.0), "{state}");
            assert_no_overflow(browser).await;
            assert_eq!(browser.value("innerWidth").await, width);
        }
        browser.value("document.getElementById('communication').scrollIntoView()").await;
        browser.keep_screenshot("phone-log-dark.png").await;
        assert_eq!(browser.console().await, [""; 0]);
        // The longest words that the header has.
        browser.click("#close").await;
        browser.wait_for_state("closed").await;
        browser.enter("#protocols", "chat.example.org").await;
        browser.press(ENTER).await;
        browser.wait_for_state("failed").await;
        browser.keep_screenshot("phone-failed-dark.png").await;
        assert_no_overflow(browser).await;
        drop(server);
    });
}

#[test]
fn everything_is_reached_by_keys_in_order_and_has_a_name() {
    browse(async |browser| {
        let server = Server::start("auto", &[]);
        browser.open(&format!("http://{}/", server.address)).await;
        let mut reached = Vec::new();
        for _ in 0..17 {
            browser.press(TAB).await;
            let name = browser.value("document.activeElement.id || document.activeElement.value").await;
            reached.push(name.as_str().expect("an element").to_owned());
            let outline = browser.value("getComputedStyle(document.activeElement).outlineStyle").await;
            assert_ne!(outline, "none", "the focus on {reached:?} is seen");
        }
        assert_eq!(
            reached,
            [
                "url",
                "connect",
                "protocols",
                "reconnect",
                "close-code",
                "close-reason",
                "close",
                "text",
                "message",
                "send",
                "repeat-count",
                "repeat-rate",
                "repeat",
                "export-json",
                "export-csv",
                "clear",
                "log-scroll",
            ]
        );
        let nameless = browser
            .value(
                "Array.from(document.querySelectorAll('input, textarea, button, [role=region], [role=img]'))\
                 .filter((e) => !(e.labels?.length || e.ariaLabel || e.getAttribute('aria-labelledby') || \
                 e.tagName === 'BUTTON' && e.textContent.trim())).map((e) => e.outerHTML)",
            )
            .await;
        assert_eq!(nameless, json!([]));
        drop(server);
    });
}

#[test]
fn changes_are_said_to_those_who_do_not_see_them() {
    browse(async |browser| {
        let server = connected(browser, &[]).await;
        assert_eq!(browser.text("[role=status] #state-name").await, "Open");
        browser.enter("#message", "hello").await;
        browser.press(ENTER).await;
        browser.wait_for_rows(3).await;
        let said = browser.text("[aria-live=polite]").await;
        assert!(said.starts_with("Echo of 5 B after "), "{said}");
        // The button keeps the focus though it can do nothing more.
        browser.click("#close").await;
        browser.wait_for_state("closed").await;
        assert_eq!(browser.value("document.activeElement.id").await, "close");
        assert_eq!(browser.value("document.getElementById('close').ariaDisabled").await, "true");
        drop(server);
    });
}

/// Neither the page nor the log has to be scrolled sideways.
async fn assert_no_overflow(browser: &Browser) {
    for element in ["document.documentElement", "document.getElementById('log-scroll')"] {
        let overflow = format!("{element}.scrollWidth - {element}.clientWidth");
        assert_eq!(browser.value(&overflow).await, 0, "{element}");
    }
}

/// Something of each kind in the log.
async fn fill(browser: &Browser) {
    browser.enter("#repeat-rate", "0").await;
    browser.press(ENTER).await;
    browser.wait_for("document.getElementById('repeat-echoed').textContent === '200 of 200'").await;
    browser.click("#clear").await;
    for text in ["hello", "<img src=x onerror=alert(1)>", "gr\u{FC}\u{DF}e, \u{3B1}\u{3B2}\u{3B3}", LONG] {
        browser.enter("#message", text).await;
        browser.press(ENTER).await;
    }
    browser.click("input[value=hex]").await;
    browser.enter("#message", "de ad be ef 00 01 02 03").await;
    browser.press(ENTER).await;
    browser.click("#close").await;
    browser.wait_for_state("closed").await;
    browser.click("#connect").await;
    browser.wait_for_state("open").await;
    browser.wait_for_rows(12).await;
}

/// Without a place to break it.
const LONG: &str =
    "0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrs";

/// Every text has at least the contrast of 4.5 that WCAG 2 asks for (1.4.3, AA).
async fn assert_contrast(browser: &Browser) {
    let weak = browser.value(WEAK_TEXTS).await;
    assert_eq!(weak, Value::Array(Vec::new()));
}

/// Texts with less, by the formula of WCAG 2; buttons that can do nothing are exempt there.
const WEAK_TEXTS: &str = r"(() => {
    const channels = (colour) => colour.match(/[\d.]+/g).map(Number);
    const luminance = (colour) => {
        const [r, g, b] = channels(colour).map((c) => c / 255)
            .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (element) => {
        for (let e = element; e; e = e.parentElement) {
            const colour = getComputedStyle(e).backgroundColor;
            if (channels(colour)[3] !== 0) return colour;
        }
        return 'rgb(255, 255, 255)';
    };
    const hasText = (e) => Array.from(e.childNodes).some((n) => n.nodeType === Node.TEXT_NODE && n.data.trim());
    return Array.from(document.querySelectorAll('body *'))
        .filter((e) => (hasText(e) || e.matches('input, textarea')) && e.checkVisibility())
        .filter((e) => !e.matches('[aria-disabled=true], script, noscript'))
        .map((e) => {
            const [light, dark] = [luminance(getComputedStyle(e).color), luminance(ground(e))].sort((a, b) => b - a);
            return [(light + 0.05) / (dark + 0.05), e.id || e.textContent];
        })
        .filter(([contrast]) => contrast < 4.5);
})()";
