//! What was answered about a document, step by step.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// What a step led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was done.
    Done,
    /// A definition.
    Text(String),
    /// dnsmasq's files, by what their names end in.
    Files(BTreeMap<String, String>),
    /// It was refused.
    Refused {
        /// libvirt's number of the error.
        code: i64,
        /// Its number of the part that speaks.
        domain: i64,
        /// The words.
        words: String,
    },
    /// Nobody answered any more.
    Gone(String),
}

/// What was answered, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers(pub Vec<(String, Answer)>);

impl Answers {
    /// Reads a line of the program that asks.
    ///
    /// # Errors
    /// It is no such line.
    pub fn read(line: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let steps: Vec<(String, Value)> = serde_json::from_value(value)?;
        let steps = steps
            .into_iter()
            .map(|(label, value)| Ok((label, Answer::of(&value)?)));
        Ok(Self(steps.collect::<Result<_>>()?))
    }

    /// Those of somebody who is gone, with the last words.
    #[must_use]
    pub fn none(words: &str) -> Self {
        Self(vec![(
            "validate".to_owned(),
            Answer::Gone(words.to_owned()),
        )])
    }

    /// What a step led to, if it was taken.
    #[must_use]
    pub fn get(&self, label: &str) -> Option<&Answer> {
        let found = self.0.iter().find(|(own, _)| own == label);
        found.map(|(_, answer)| answer)
    }
}

impl Answer {
    fn of(value: &Value) -> Result<Self> {
        if let Some(files) = value.get("files") {
            return Ok(Self::Files(serde_json::from_value(files.clone())?));
        }
        if let Some(error) = value.get("error") {
            let (code, domain, words) = serde_json::from_value(error.clone())?;
            return Ok(Self::Refused {
                code,
                domain,
                words,
            });
        }
        if let Some(words) = value.get("gone") {
            return Ok(Self::Gone(serde_json::from_value(words.clone())?));
        }
        match value.get("ok") {
            Some(Value::String(text)) => Ok(Self::Text(text.clone())),
            Some(Value::Null) => Ok(Self::Done),
            _ => bail!("no answer: {value}"),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Text(text) => f.write_str(text),
            Self::Files(files) => {
                for (kind, text) in files {
                    writeln!(f, "--- {kind}\n{text}")?;
                }
                Ok(())
            }
            Self::Refused {
                code,
                domain,
                words,
            } => write!(f, "refused, {code}/{domain}: {words}"),
            Self::Gone(words) => write!(f, "gone: {words}"),
        }
    }
}
