//! Who may do what over which socket.

use rustix::fs::Mode;

use crate::rpc::peer::Peer;

/// The rule of one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Is it a socket over which nobody changes anything?
    pub read_only: bool,
    /// Members of this group may do what root may.
    pub group: Option<u32>,
    /// What everybody else may do.
    pub others: Others,
}

/// What users may do who are neither root nor in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// Nothing.
    Nothing,
    /// Look.
    Read,
    /// What polkit says.
    Polkit,
}

/// What one client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Nothing.
    Nothing,
    /// Look.
    Read,
    /// Look, and change things.
    Write,
    /// What the action allows, once polkit has said so.
    Ask(Action),
}

/// What polkit is asked for, by libvirt's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Look.
    Monitor,
    /// Change things.
    Manage,
}

impl Access {
    /// The rule of a socket that is root's alone.
    pub const ROOT: Self = Self {
        read_only: false,
        group: None,
        others: Others::Nothing,
    };

    /// What `peer` may do.
    #[must_use]
    pub fn rights(&self, peer: &Peer) -> Rights {
        let known = peer.is_owner() || self.group.is_some_and(|group| peer.is_member(group));
        match (self.read_only, self.others) {
            (true, _) if known => Rights::Read,
            (false, _) if known => Rights::Write,
            (_, Others::Nothing) => Rights::Nothing,
            (_, Others::Read) => Rights::Read,
            (true, Others::Polkit) => Rights::Ask(Action::Monitor),
            (false, Others::Polkit) => Rights::Ask(Action::Manage),
        }
    }

    /// The mode of the socket's file: those of libvirt's sockets. Who would be refused everything cannot
    /// connect, and who only looks has the socket for that.
    #[must_use]
    pub fn mode(&self) -> Mode {
        let everybody = match self.others {
            Others::Nothing => false,
            Others::Read => self.read_only,
            Others::Polkit => true,
        };
        match (everybody, self.group) {
            (true, _) => Mode::RWXU | Mode::RWXG | Mode::RWXO,
            (false, Some(_)) => Mode::RWXU | Mode::RWXG,
            (false, None) => Mode::RUSR | Mode::WUSR,
        }
    }
}

impl Action {
    /// Its name.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::Monitor => "org.libvirt.unix.monitor",
            Self::Manage => "org.libvirt.unix.manage",
        }
    }

    /// What a client may do to which it was granted.
    #[must_use]
    pub fn rights(self) -> Rights {
        match self {
            Self::Monitor => Rights::Read,
            Self::Manage => Rights::Write,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: u32 = 77;

    fn peer(uid: u32, gid: u32, groups: &[u32]) -> Peer {
        Peer {
            uid,
            gid,
            pid: 1,
            groups: groups.to_vec(),
        }
    }

    #[test]
    fn root_and_the_group_are_never_asked() {
        for others in [Others::Nothing, Others::Read, Others::Polkit] {
            for (read_only, expected) in [(false, Rights::Write), (true, Rights::Read)] {
                let access = Access {
                    read_only,
                    group: Some(GROUP),
                    others,
                };
                for known in [
                    peer(0, 0, &[]),
                    peer(4_000_000_000, GROUP, &[]),
                    peer(4_000_000_000, 5, &[6, GROUP]),
                ] {
                    assert_eq!(access.rights(&known), expected, "{known} {access:?}");
                }
            }
        }
    }

    #[test]
    fn others_have_what_is_set() {
        let stranger = peer(4_000_000_000, 5, &[6, 0]);
        for (others, read_only, rights, mode) in [
            (Others::Nothing, false, Rights::Nothing, 0o770),
            (Others::Nothing, true, Rights::Nothing, 0o770),
            (Others::Read, false, Rights::Read, 0o770),
            (Others::Read, true, Rights::Read, 0o777),
            (Others::Polkit, false, Rights::Ask(Action::Manage), 0o777),
            (Others::Polkit, true, Rights::Ask(Action::Monitor), 0o777),
        ] {
            let access = Access {
                read_only,
                group: Some(GROUP),
                others,
            };
            assert_eq!(access.rights(&stranger), rights, "{access:?}");
            assert_eq!(access.mode().bits(), mode, "{access:?}");
        }
        assert_eq!(Access::ROOT.rights(&stranger), Rights::Nothing);
        assert_eq!(Access::ROOT.mode().bits(), 0o600);
    }
}
