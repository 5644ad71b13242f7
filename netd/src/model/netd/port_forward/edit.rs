//! Adding to the list of forwards, and taking away from it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{ForwardGuest, ForwardProtocol, ForwardRange, PortForward};

/// A change of the list of forwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForwardAction {
    /// Add this forward.
    Add(PortForward),
    /// Remove a forward, or the range from one.
    Delete(Published),
}

/// What a forward publishes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The protocol.
    pub protocol: ForwardProtocol,
    /// The address.
    pub address: Option<IpAddr>,
    /// The device.
    pub dev: Option<String>,
    /// First and last port of one range; a forward without ranges has none.
    pub ports: Option<(u16, u16)>,
    /// Whom it leads to; needed where a port leads to an IPv4 and to an IPv6 guest.
    pub guest: Option<ForwardGuest>,
}

/// Changes a list of forwards.
///
/// # Errors
/// What is to be deleted is not there, or not the only one that is meant. The error is what follows
/// the name of the network; nothing is changed then.
pub fn change_forwards(
    forwards: &mut Vec<PortForward>,
    action: &ForwardAction,
) -> Result<(), String> {
    match action {
        ForwardAction::Add(new) => {
            add(forwards, new);
            Ok(())
        }
        ForwardAction::Delete(published) => delete(forwards, published),
    }
}

/// A forward to where another one leads is one more range of that.
fn add(forwards: &mut Vec<PortForward>, new: &PortForward) {
    let twin = forwards.iter_mut().find(|forward| {
        !forward.ranges.is_empty()
            && !new.ranges.is_empty()
            && forward.protocol == new.protocol
            && forward.scope() == new.scope()
            && forward.guest == new.guest
    });
    match twin {
        Some(forward) => forward.ranges.extend(&new.ranges),
        None => forwards.push(new.clone()),
    }
}

/// Take a range away, and its forward with the last one. The error, also where more than one forward
/// is meant, is what follows the network's name.
fn delete(forwards: &mut Vec<PortForward>, published: &Published) -> Result<(), String> {
    let Published {
        protocol,
        address,
        dev,
        ports,
        guest,
    } = published;
    let is_it = |range: &ForwardRange| !range.exclude && Some((range.start, range.end)) == *ports;
    let fits = |forward: &PortForward| {
        forward.protocol == *protocol
            && forward.address == *address
            && forward.dev == *dev
            && guest.as_ref().is_none_or(|guest| forward.guest == *guest)
            && match ports {
                Some(_) => forward.ranges.iter().any(is_it),
                None => forward.ranges.is_empty(),
            }
    };
    let found: Vec<usize> = (0..forwards.len())
        .filter(|&number| fits(&forwards[number]))
        .collect();
    let [found] = found[..] else {
        let what = match (protocol, ports) {
            (ForwardProtocol::All, _) => "whole address".to_owned(),
            (_, None) => format!("{protocol} address"),
            (_, Some((first, last))) if first == last => format!("{protocol} port {first}"),
            (_, Some((first, last))) => format!("{protocol} range {first}-{last}"),
        };
        let place = match (address, dev) {
            (Some(address), _) => format!(" at {address}"),
            (_, Some(dev)) => format!(" at {dev}"),
            (None, None) => String::new(),
        };
        let guests: Vec<String> = found
            .iter()
            .map(|&number| forwards[number].guest.to_string())
            .collect();
        if !guests.is_empty() {
            return Err(format!(
                "publishes {what}{place} to {}; name one guest after the port",
                guests.join(" and to ")
            ));
        }
        let to = guest
            .as_ref()
            .map_or_else(String::new, |guest| format!(" to {guest}"));
        return Err(format!(
            "publishes no {what}{place}{to}; `netd forward list` shows what it does"
        ));
    };
    let forward = &mut forwards[found];
    if let Some((first, last)) = *ports {
        // With the ports that were excluded from it.
        forward
            .ranges
            .retain(|r| !(is_it(r) || r.exclude && first <= r.start && r.end <= last));
    }
    if forward.ranges.iter().all(|range| range.exclude) {
        forwards.remove(found);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::samples::{forward, range};
    use super::*;

    fn published(ports: (u16, u16)) -> Published {
        Published {
            protocol: ForwardProtocol::Tcp,
            address: None,
            dev: None,
            ports: Some(ports),
            guest: None,
        }
    }

    #[test]
    fn ranges_of_one_target_stand_together() {
        let mut forwards = vec![forward("10.0.0.5", &[range(80, 80, None, false)])];
        add(
            &mut forwards,
            &forward("10.0.0.5", &[range(8080, 8080, Some(80), false)]),
        );
        add(
            &mut forwards,
            &forward("10.0.0.6", &[range(81, 81, None, false)]),
        );
        assert_eq!(forwards.len(), 2);
        assert_eq!(forwards[0].ranges.len(), 2);
        delete(&mut forwards, &published((80, 80))).unwrap();
        delete(&mut forwards, &published((8080, 8080))).unwrap();
        assert_eq!(forwards.len(), 1);
        assert_eq!(forwards[0].guest.to_string(), "10.0.0.6");
    }

    #[test]
    fn a_range_goes_with_what_is_excluded_from_it() {
        let ranges = [
            range(9000, 9010, None, false),
            range(9005, 9005, None, true),
            range(80, 80, None, false),
        ];
        let mut forwards = vec![forward("10.0.0.5", &ranges)];
        let error = delete(&mut forwards, &published((9000, 9009))).unwrap_err();
        assert!(error.contains("no tcp range 9000-9009"), "{error}");
        let error = delete(&mut forwards, &published((9005, 9005))).unwrap_err();
        assert!(error.contains("no tcp port 9005"), "{error}");
        delete(&mut forwards, &published((9000, 9010))).unwrap();
        assert_eq!(forwards[0].ranges, [ranges[2]]);
    }

    #[test]
    fn a_port_of_two_guests_is_taken_from_the_one_that_is_named() {
        let both = [
            forward("10.0.0.5", &[range(53, 53, None, false)]),
            forward("fd00::5", &[range(53, 53, None, false)]),
        ];
        let mut forwards = both.to_vec();
        let error = delete(&mut forwards, &published((53, 53))).unwrap_err();
        assert!(
            error.contains("tcp port 53 to 10.0.0.5 and to fd00::5; name one"),
            "{error}"
        );
        assert_eq!(forwards, both);
        let of = |guest: &str| Published {
            guest: Some(guest.to_owned().into()),
            ..published((53, 53))
        };
        let error = delete(&mut forwards, &of("10.0.0.6")).unwrap_err();
        assert!(error.contains("no tcp port 53 to 10.0.0.6"), "{error}");
        delete(&mut forwards, &of("fd00::5")).unwrap();
        assert_eq!(forwards, both[..1]);
        // The other one needs no name any more.
        delete(&mut forwards, &published((53, 53))).unwrap();
        assert!(forwards.is_empty());
    }

    #[test]
    fn scopes_are_told_apart() {
        let mut forwards = vec![PortForward {
            dev: Some("eth0".to_owned()),
            ..forward("10.0.0.5", &[range(80, 80, None, false)])
        }];
        add(
            &mut forwards,
            &forward("10.0.0.5", &[range(81, 81, None, false)]),
        );
        assert_eq!(forwards.len(), 2);
        assert!(delete(&mut forwards, &published((80, 80))).is_err());
        let at = Published {
            dev: Some("eth0".to_owned()),
            ..published((80, 80))
        };
        delete(&mut forwards, &at).unwrap();
        assert_eq!(forwards.len(), 1);
    }
}
