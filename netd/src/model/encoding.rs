//! From a file's bytes to text: the encodings in which libvirt's users write XML.

/// What is read, for people.
const KNOWN: &str = "UTF-8, UTF-16 and ISO-8859-1 are read";

/// Longest XML declaration that is looked at, in bytes.
const DECLARATION: usize = 256;

/// The text of an XML file, whose declaration says UTF-8 from then on. The encoding is the one of its byte
/// order mark, of its first characters or of its declaration (XML 1.0, appendix F), else UTF-8.
///
/// # Errors
/// The bytes are not of that encoding, or it is none of those that are read; in words.
pub fn decode(bytes: &[u8]) -> Result<String, String> {
    let utf16 = |big: bool, bytes: &[u8]| {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let units: Vec<u16> = pairs
            .iter()
            .map(|pair| match big {
                true => u16::from_be_bytes(*pair),
                false => u16::from_le_bytes(*pair),
            })
            .collect();
        let text = String::from_utf16(&units).ok().filter(|_| rest.is_empty());
        text.ok_or_else(|| "it is not UTF-16 text".to_owned())
    };
    let text = match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => utf8(rest)?,
        [0xfe, 0xff, rest @ ..] => utf16(true, rest)?,
        [0xff, 0xfe, rest @ ..] => utf16(false, rest)?,
        [0, b'<', ..] => utf16(true, bytes)?,
        [b'<', 0, ..] => utf16(false, bytes)?,
        _ => match declared(bytes) {
            None => utf8(bytes)?,
            Some(name) => by_name(name, bytes)?,
        },
    };
    Ok(as_utf8(text))
}

fn utf8(bytes: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(bytes).map(str::to_owned);
    text.map_err(|_| format!("it is not UTF-8 text, and names no other encoding ({KNOWN})"))
}

fn by_name(name: &str, bytes: &[u8]) -> Result<String, String> {
    match name.to_ascii_lowercase().as_str() {
        "utf-8" | "utf8" | "us-ascii" | "ascii" => utf8(bytes),
        // Each of its 256 characters has the number that it has in Unicode.
        "iso-8859-1" | "iso_8859-1" | "latin1" => {
            Ok(bytes.iter().copied().map(char::from).collect())
        }
        "utf-16" => Err("it says that it is UTF-16, and is not".to_owned()),
        _ => Err(format!(
            "its encoding '{}' is not known; {KNOWN}",
            name.escape_debug()
        )),
    }
}

/// The encoding that the XML declaration names.
fn declared(bytes: &[u8]) -> Option<&str> {
    let start = bytes.get(..bytes.len().min(DECLARATION))?;
    let end = start.windows(2).position(|two| two == b"?>")?;
    let declaration = std::str::from_utf8(start.get(..end)?).ok()?;
    encoding(declaration).map(|(_, name)| name)
}

/// Where in an XML declaration its encoding is named, and the name.
fn encoding(declaration: &str) -> Option<(usize, &str)> {
    let rest = declaration.strip_prefix("<?xml")?;
    let key = rest.find("encoding")?;
    let quote = rest.get(key..)?.find(['"', '\''])? + key;
    let name = rest.get(quote + 1..)?;
    let name = name.split(['"', '\'']).next()?;
    let at = declaration.len() - rest.len() + quote + 1;
    Some((at, name))
}

/// The text with a declaration that is true of it.
fn as_utf8(mut text: String) -> String {
    let end = text.find("?>").unwrap_or(0);
    let named = text.get(..end).and_then(encoding);
    if let Some((at, name)) = named {
        let range = at..at + name.len();
        text.replace_range(range, "UTF-8");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "<network><name>büro</name></network>";

    fn with(encoding: &str) -> String {
        format!("<?xml version='1.0' encoding='{encoding}'?>{BODY}")
    }

    fn utf16(text: &str, big: bool) -> Vec<u8> {
        let units = text.encode_utf16();
        let pairs = units.flat_map(|u| {
            if big {
                u.to_be_bytes()
            } else {
                u.to_le_bytes()
            }
        });
        pairs.collect()
    }

    #[test]
    fn texts_are_read_in_their_encodings() {
        let latin1: Vec<u8> = with("ISO-8859-1").chars().map(|c| c as u8).collect();
        let mut marked = vec![0xff, 0xfe];
        marked.extend(utf16(&with("UTF-16"), false));
        let mut big = vec![0xfe, 0xff];
        big.extend(utf16(BODY, true));
        let mut utf8 = vec![0xef, 0xbb, 0xbf];
        utf8.extend(BODY.as_bytes());
        for (bytes, expected) in [
            (BODY.as_bytes().to_vec(), BODY.to_owned()),
            (with("utf-8").into_bytes(), with("UTF-8")),
            (latin1, with("UTF-8")),
            (marked, with("UTF-8")),
            (big, BODY.to_owned()),
            (utf16(&with("UTF-16"), true), with("UTF-8")),
            (utf8, BODY.to_owned()),
        ] {
            assert_eq!(decode(&bytes), Ok(expected.clone()));
            let network = crate::model::parse(&expected).unwrap();
            assert_eq!(network.name, "büro");
        }
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let mut odd = vec![0xff, 0xfe];
        odd.extend(utf16(BODY, false));
        odd.push(b'>');
        let bare: Vec<u8> = BODY.chars().map(|c| c as u8).collect();
        for (bytes, words) in [
            (bare, "not UTF-8"),
            (with("EBCDIC-US").into_bytes(), "'EBCDIC-US' is not known"),
            (with("UTF-16").into_bytes(), "says that it is UTF-16"),
            (odd, "not UTF-16"),
            (vec![0xff, 0xfe, 0, 0xd8], "not UTF-16"),
            (vec![b'<', 0x80], "not UTF-8"),
        ] {
            let error = decode(&bytes).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        assert_eq!(decode(b""), Ok(String::new()));
    }
}
