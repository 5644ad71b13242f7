//! The answers of both sides, in a form in which what each may choose does not show.

use std::fmt::Write as _;

use super::answer::{Answer, Answers};
use super::document::Document;

/// Two answers that are not the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Number of the document.
    pub number: u64,
    /// Its text, and those of its changes where they matter.
    pub xml: String,
    /// How often it was damaged.
    pub flaws: usize,
    /// What was asked.
    pub step: String,
    /// libvirt's answer.
    pub libvirt: Answer,
    /// netd's.
    pub netd: Answer,
}

/// Compares what came of a document. What follows a difference is none of its own, but for what the schema says.
#[must_use]
pub fn compare(document: &Document, libvirt: &Answers, netd: &Answers) -> Vec<Difference> {
    let mut differences = Vec::new();
    for (step, of_libvirt) in &libvirt.0 {
        let Some(of_netd) = netd.get(step) else {
            continue;
        };
        let of_libvirt = plain(of_libvirt, &document.xml);
        let of_netd = plain(of_netd, &document.xml);
        let is_told = |told: &Difference| told.libvirt == of_libvirt && told.netd == of_netd;
        if is_same(&of_libvirt, &of_netd) || differences.iter().any(is_told) {
            continue;
        }
        differences.push(Difference {
            number: document.number,
            xml: document.text_of(step),
            flaws: document.flaws,
            step: step.clone(),
            libvirt: of_libvirt,
            netd: of_netd,
        });
        if step != "validate" {
            break;
        }
    }
    differences
}

/// Are these the same, but for words?
fn is_same(a: &Answer, b: &Answer) -> bool {
    match (a, b) {
        (
            Answer::Refused { code, domain, .. },
            Answer::Refused {
                code: other_code,
                domain: other_domain,
                ..
            },
        ) => (code, domain) == (other_code, other_domain),
        _ => a == b,
    }
}

/// The answer without what a daemon chooses for itself.
fn plain(answer: &Answer, xml: &str) -> Answer {
    match answer {
        Answer::Text(text) => Answer::Text(without_choices(text, xml)),
        Answer::Files(files) => {
            let plain = |kind: &str| {
                let text = files.get(kind).map(String::as_str).unwrap_or_default();
                (kind.to_owned(), without_places(text))
            };
            Answer::Files(["conf", "hostsfile", "addnhosts"].map(plain).into())
        }
        other => other.clone(),
    }
}

/// A definition without a UUID or MAC address that was made for it.
fn without_choices(text: &str, xml: &str) -> String {
    let uuid = |text: &str| text.to_lowercase().replace(['-', ' '], "");
    let mac = |text: &str| text.to_lowercase().replace(":0", ":");
    let text = without(text, "  <uuid>", "</uuid>\n", |value| {
        !uuid(xml).contains(&uuid(value))
    });
    without(&text, "  <mac address='", "'/>\n", |value| {
        !mac(xml).contains(&mac(value))
    })
}

/// The text without what stands between these, if it is to go.
fn without(text: &str, begin: &str, end: &str, goes: impl Fn(&str) -> bool) -> String {
    let found = text.split_once(begin).and_then(|(before, rest)| {
        let (value, after) = rest.split_once(end)?;
        goes(value).then(|| format!("{before}{begin}{end}{after}"))
    });
    found.unwrap_or_else(|| text.to_owned())
}

/// Options of dnsmasq that name a file.
const FILES: [&str; 3] = ["pid-file=", "dhcp-hostsfile=", "addn-hosts="];

/// dnsmasq's files without the places where each has them, and without what netd alone adds.
fn without_places(text: &str) -> String {
    // What netd adds where the host has no name servers stands behind a line of its own.
    let text = match text.split_once("## What names the host's name servers") {
        Some((before, _)) => before,
        None => text,
    };
    let lines = text.lines().filter(|line| !line.starts_with("##"));
    let mut plain = String::new();
    for line in lines.filter(|line| *line != "dhcp-ignore-clid") {
        let option = FILES.iter().find(|option| line.starts_with(*option));
        let line = match option {
            Some(option) => format!("{option}{}", line.rsplit('/').next().unwrap_or_default()),
            None => line.to_owned(),
        };
        // Writing to a string does not fail.
        let _ = writeln!(plain, "{line}");
    }
    plain
}

impl Difference {
    /// The place where the two begin to differ, as each has it.
    #[must_use]
    pub fn places(&self) -> [String; 2] {
        match (&self.libvirt, &self.netd) {
            (Answer::Text(a), Answer::Text(b)) => first_lines(a, b),
            (Answer::Files(a), Answer::Files(b)) => {
                let differing = a.iter().find(|(kind, text)| b.get(*kind) != Some(text));
                match differing {
                    Some((kind, text)) => {
                        let other = b.get(kind).map(String::as_str).unwrap_or_default();
                        first_lines(text, other).map(|line| format!("{kind}: {line}"))
                    }
                    None => [String::new(), String::new()],
                }
            }
            (a, b) => [a, b].map(|answer| match answer {
                Answer::Text(_) | Answer::Files(_) => "an answer".to_owned(),
                other => other.to_string(),
            }),
        }
    }

    /// What it is, without the values of this document.
    #[must_use]
    pub fn kind(&self) -> String {
        let step: String = self.step.chars().filter(|c| !c.is_ascii_digit()).collect();
        let number = |answer: &Answer| match answer {
            Answer::Refused { code, domain, .. } => format!(" ({code}/{domain})"),
            _ => String::new(),
        };
        let (of_libvirt, of_netd) = (number(&self.libvirt), number(&self.netd));
        let [libvirt, netd] = self.places().map(|place| masked(&place));
        format!("{step}: libvirt{of_libvirt} {libvirt} | netd{of_netd} {netd}")
    }

    /// All of it, as a line of JSON.
    #[must_use]
    pub fn line(&self, seed: u64) -> String {
        serde_json::json!({
            "seed": seed,
            "number": self.number,
            "flaws": self.flaws,
            "step": self.step,
            "kind": self.kind(),
            "places": self.places(),
            "xml": self.xml,
            "libvirt": self.libvirt.to_string(),
            "netd": self.netd.to_string(),
        })
        .to_string()
    }

    /// All of it, for people.
    #[must_use]
    pub fn report(&self, seed: u64) -> String {
        let [libvirt, netd] = self.places();
        format!(
            "seed {seed}, document {}, {}\n  libvirt: {libvirt}\n  netd:    {netd}\n{}\n",
            self.number, self.step, self.xml
        )
    }
}

/// The first lines that are not the same.
fn first_lines(a: &str, b: &str) -> [String; 2] {
    let (mut a, mut b) = (a.lines(), b.lines());
    loop {
        match (a.next(), b.next()) {
            (None, None) => return [String::new(), String::new()],
            (one, other) if one == other => {}
            (one, other) => return [one, other].map(|line| line.unwrap_or("the end").to_owned()),
        }
    }
}

/// Words without values: what stands in quotation marks, and numbers. Only the first line of them.
fn masked(text: &str) -> String {
    let mut masked = String::new();
    let mut quote = None;
    let mut before = ' ';
    for c in text.lines().next().unwrap_or_default().chars() {
        match (quote, c) {
            (Some(open), c) if c == open => {
                quote = None;
                masked.push(c);
            }
            (Some(_), _) => {}
            // An apostrophe stands behind a letter.
            (None, '\'' | '"') if !before.is_alphanumeric() => {
                quote = Some(c);
                masked.push(c);
            }
            (None, c) if c.is_ascii_digit() => {
                if !masked.ends_with('N') {
                    masked.push('N');
                }
            }
            (None, c) => masked.push(c),
        }
        before = c;
    }
    masked.chars().take(300).collect()
}
