//! `netd explain`: what a drop reason or an element of the network XML means. The words are those of the
//! documents, whose tables are read here, so that none is written twice.

use serde::Serialize;

use super::args::ExplainArgs;
use super::output::{Failure, Output};

const REASONS: &str = include_str!("../../../docs/reference/drop-reasons.md");
const ELEMENTS: &str = include_str!("../../../docs/reference/network-xml.md");
const METADATA: &str = include_str!("../../../docs/reference/metadata.md");

/// What a topic is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Kind {
    #[serde(rename = "drop reason")]
    Reason,
    #[serde(rename = "element")]
    Element,
}

/// A row of a table.
#[derive(Clone, Debug, Serialize)]
struct Topic {
    kind: Kind,
    name: String,
    facts: Vec<Fact>,
}

/// A cell of it, below its heading; or a section that it leads to.
#[derive(Clone, Debug, Serialize)]
struct Fact {
    label: String,
    text: String,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Explained {
    topics: Vec<Topic>,
}

pub(super) fn explain(output: &mut Output, args: &ExplainArgs) -> Result<(), Failure> {
    let all = topics();
    let Some(what) = &args.topic else {
        if args.json {
            return output.answer(&Explained { topics: all });
        }
        for topic in all {
            output.data(format!("{}\n", topic.name));
        }
        return Ok(());
    };
    let topics: Vec<Topic> = all.iter().filter(|topic| topic.is(what)).cloned().collect();
    if topics.is_empty() {
        return Err(unknown(what, &all));
    }
    if args.json {
        return output.answer(&Explained { topics });
    }
    for (number, topic) in topics.iter().enumerate() {
        if number > 0 {
            output.data("\n");
        }
        output.data(format!("{}\n", topic.name));
        for fact in &topic.facts {
            output.data(format!(
                "  {}: {}\n",
                fact.label,
                fact.text.replace('\n', "\n  ")
            ));
        }
    }
    Ok(())
}

fn unknown(what: &str, all: &[Topic]) -> Failure {
    let names = all.iter().flat_map(Topic::words);
    let close = names.map(|name| (strsim::jaro_winkler(&name, what), name));
    let best = close.max_by(|(a, _), (b, _)| a.total_cmp(b));
    let hint = match best {
        Some((likeness, name)) if likeness > 0.8 => format!("; did you mean {name}?"),
        _ => "; `netd explain` lists what there is".to_owned(),
    };
    format!("nothing is known of '{what}', as a drop reason or an element{hint}").into()
}

impl Topic {
    /// Is that what it is called? Of an element any of its tags is enough, with or without attributes.
    fn is(&self, what: &str) -> bool {
        let asked = what.trim_matches(['<', '>', '/']);
        let mut asked = asked.split_whitespace();
        let Some(name) = asked.next() else {
            return false;
        };
        let own = self.words();
        let is_named = own
            .iter()
            .any(|own| own == name || own.strip_prefix("netd:") == Some(name));
        let parts = || self.name.split(|c: char| !c.is_alphanumeric());
        is_named && asked.all(|attribute| parts().any(|part| part == attribute))
    }

    /// Its name, or those of its tags.
    fn words(&self) -> Vec<String> {
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, ':' | '_' | '-');
        let tag = |rest: &str| rest.split(|c| !is_part(c)).next().map(str::to_owned);
        match self.kind {
            Kind::Reason => vec![self.name.clone()],
            Kind::Element => self.name.split('<').skip(1).filter_map(tag).collect(),
        }
    }
}

/// All that there is, in the order of the documents.
fn topics() -> Vec<Topic> {
    let reasons = rows(REASONS, Kind::Reason).into_iter();
    let elements = rows(ELEMENTS, Kind::Element).into_iter();
    let own = rows(METADATA, Kind::Element).into_iter();
    let own = own.filter(|topic| topic.name.contains("<netd:"));
    reasons.chain(elements).chain(own).collect()
}

/// The rows of a document's tables that begin with something quoted.
fn rows(text: &str, kind: Kind) -> Vec<Topic> {
    let mut headings: Vec<&str> = Vec::new();
    let mut topics = Vec::new();
    for line in text.lines() {
        let Some(cells) = cells(line) else {
            headings.clear();
            continue;
        };
        if headings.is_empty() {
            headings = cells;
            continue;
        }
        let Some((name, rest)) = cells
            .split_first()
            .filter(|(name, _)| name.starts_with('`'))
        else {
            continue;
        };
        let labelled = headings.iter().skip(1).zip(rest);
        let facts = labelled.filter(|(_, text)| !text.is_empty());
        let facts = facts.flat_map(|(label, cell)| {
            let section = sections(cell, text);
            let fact = Fact {
                label: (*label).to_owned(),
                text: plain(cell),
            };
            std::iter::once(fact).chain(section)
        });
        topics.push(Topic {
            kind,
            name: plain(name),
            facts: facts.collect(),
        });
    }
    topics
}

/// The cells of a row; none where the line is no row.
fn cells(line: &str) -> Option<Vec<&str>> {
    let row = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(row.split(" | ").map(str::trim).collect())
}

/// The sections of the same document that a cell leads to.
fn sections(cell: &str, text: &str) -> Vec<Fact> {
    let links = cell
        .split("](#")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    let found = links.filter_map(|anchor| {
        let mut parts = text.split("\n## ").skip(1);
        let part = parts.find(|part| {
            let heading = part.lines().next().unwrap_or_default();
            let heading = heading.to_lowercase().replace('\'', "").replace(' ', "-");
            heading == anchor
        })?;
        let (heading, body) = part.split_once('\n')?;
        Some(Fact {
            label: heading.to_owned(),
            text: format!("\n{}", plain(body.trim())),
        })
    });
    found.collect()
}

/// Without what marks code and links.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once('[') {
        plain.push_str(before);
        match link
            .split_once("](")
            .and_then(|(words, rest)| Some((words, rest.split_once(')')?.1)))
        {
            Some((words, behind)) if !words.contains('[') => {
                plain.push_str(words);
                rest = behind;
            }
            _ => {
                plain.push('[');
                rest = link;
            }
        }
    }
    plain.push_str(rest);
    plain.replace('`', "")
}

#[cfg(test)]
mod tests {
    use netd_common::Reason;

    use super::*;

    fn said(what: &str) -> Result<String, Failure> {
        let mut output = Output::new(false);
        let args = ExplainArgs {
            topic: Some(what.to_owned()),
            json: false,
        };
        explain(&mut output, &args).map(|()| output.text().to_owned())
    }

    #[test]
    fn every_drop_reason_is_explained() {
        for reason in Reason::ALL {
            let text = said(reason.name()).unwrap();
            for label in ["meaning: ", "usual cause: ", "what to do: "] {
                assert!(text.contains(label), "{text}");
            }
            assert!(!text.contains('`') && !text.contains("]("), "{text}");
        }
    }

    #[test]
    fn elements_are_found_by_tag_and_attribute() {
        let text = said("bridge").unwrap();
        for part in [
            "<bridge name>",
            "<bridge stp delay>",
            "applied: start",
            "supported: yes",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        for what in ["bridge zone", "<bridge zone>"] {
            let text = said(what).unwrap();
            assert!(
                text.contains("firewalld") && !text.contains("stp"),
                "{text}"
            );
        }
        // One of libvirt's in two places, and netd's own.
        let text = said("host").unwrap();
        for part in ["<dns><host>", "<dhcp><range>, <host>", "<netd:host>"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let text = said("netd:antispoof").unwrap();
        assert!(text.contains("Anti-spoofing: "), "its section: {text}");
    }

    #[test]
    fn what_is_not_known_is_guessed_at() {
        let failed = |what: &str| said(what).unwrap_err().to_string();
        assert!(
            failed("isolatd").contains("did you mean isolated?"),
            "{}",
            failed("isolatd")
        );
        assert!(
            failed("brigde").contains("did you mean bridge?"),
            "{}",
            failed("brigde")
        );
        assert!(
            failed("qqqq").contains("lists what there is"),
            "{}",
            failed("qqqq")
        );
        failed("");
        failed("bridge colour");
    }

    #[test]
    fn links_and_code_are_words() {
        assert_eq!(plain("see [`a` b](c.md#d), `e[0]` [f"), "see a b, e[0] [f");
    }
}
