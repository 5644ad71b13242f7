//! The programs that others go on in by tail calls.

/// Index into the map `slow_paths`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowPath {
    /// What guests send.
    FromGuest = 0,
    /// What comes from outside.
    FromOutside = 1,
    /// What the stack sends.
    ToOutside = 2,
}

impl SlowPath {
    /// Every one, in the order of the map.
    pub const ALL: [Self; 3] = [Self::FromGuest, Self::FromOutside, Self::ToOutside];

    /// The program there.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::FromGuest => "from_guest",
            Self::FromOutside => "from_outside",
            Self::ToOutside => "to_outside",
        }
    }
}
