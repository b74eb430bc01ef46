//! The codes of the wire as types. Values that RFC 4678 defines have names; all other values are kept.

use std::fmt;

/// A newtype over a wire code. Some values have a name.
macro_rules! wire_code {
    ($(#[$doc:meta])* $type:ident($raw:ty) $width:literal { $($(#[$value_doc:meta])* $constant:ident = $value:literal, $name:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(pub $raw);

        impl $type {
            $($(#[$value_doc])* pub const $constant: $type = $type($value);)*

            /// The RFC's name of the value, if the RFC defines the value.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($name),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $type {
            /// The name, or the number of a value without a name.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.pad(name),
                    None => write!(f, concat!("0x{:0", $width, "X}"), self.0),
                }
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), "(0x{:0", $width, "X} {})"), self.0, self.name().unwrap_or("unknown"))
            }
        }
    };
}

/// A newtype over a byte of flags. Reserved bits are kept, and have no meaning.
macro_rules! wire_flags {
    ($(#[$doc:meta])* $type:ident { $($(#[$bit_doc:meta])* $constant:ident = $bit:literal, $name:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub struct $type(pub u8);

        impl $type {
            $($(#[$bit_doc])* pub const $constant: $type = $type(1 << $bit);)*
            /// No flag set.
            pub const NONE: $type = $type(0);

            /// Whether all bits of `other` are set.
            pub const fn contains(self, other: $type) -> bool {
                self.0 & other.0 == other.0
            }

            /// These flags with `other` set or cleared.
            #[must_use]
            pub const fn with(self, other: $type, on: bool) -> $type {
                if on { $type(self.0 | other.0) } else { $type(self.0 & !other.0) }
            }

            /// The reserved bits that are set.
            pub const fn reserved(self) -> u8 {
                self.0 & !(0 $(| 1 << $bit)*)
            }

            /// The names of the bits that are set, without reserved bits.
            pub fn names(self) -> impl Iterator<Item = &'static str> {
                [$(($type::$constant, $name)),*].into_iter().filter(move |(bit, _)| self.contains(*bit)).map(|(_, name)| name)
            }
        }

        impl std::ops::BitOr for $type {
            type Output = $type;

            fn bitor(self, other: $type) -> $type {
                $type(self.0 | other.0)
            }
        }

        impl fmt::Display for $type {
            /// The number and the names: `0x8D (contact, registered-by-lb, confident, reserved 0x80)`, or `0x00` alone.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "0x{:02X}", self.0)?;
                let mut before = " (";
                for name in self.names() {
                    write!(f, "{before}{name}")?;
                    before = ", ";
                }
                match self.reserved() {
                    0 => {}
                    bits => {
                        write!(f, "{before}reserved 0x{bits:02X}")?;
                        before = ", ";
                    }
                }
                f.write_str(if before == ", " { ")" } else { "" })
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), "(0x{:02X}"), self.0)?;
                self.names().try_for_each(|name| write!(f, " {name}"))?;
                f.write_str(")")
            }
        }
    };
}

wire_code! {
    /// The type of a TLV: header, message or component (RFC 4678 section 4.2).
    ComponentType(u16) "4" {
        /// SASP header.
        HEADER = 0x2010, "SASP Header";
        /// Registration Request.
        REGISTRATION_REQUEST = 0x1010, "Registration Request";
        /// Registration Reply.
        REGISTRATION_REPLY = 0x1015, "Registration Reply";
        /// Deregistration Request.
        DEREGISTRATION_REQUEST = 0x1020, "Deregistration Request";
        /// Deregistration Reply.
        DEREGISTRATION_REPLY = 0x1025, "Deregistration Reply";
        /// Get Weights Request.
        GET_WEIGHTS_REQUEST = 0x1030, "Get Weights Request";
        /// Get Weights Reply.
        GET_WEIGHTS_REPLY = 0x1035, "Get Weights Reply";
        /// Send Weights: the push.
        SEND_WEIGHTS = 0x1040, "Send Weights";
        /// Set LB State Request.
        SET_LB_STATE_REQUEST = 0x1050, "Set LB State Request";
        /// Set LB State Reply.
        SET_LB_STATE_REPLY = 0x1055, "Set LB State Reply";
        /// Set Member State Request.
        SET_MEMBER_STATE_REQUEST = 0x1060, "Set Member State Request";
        /// Set Member State Reply.
        SET_MEMBER_STATE_REPLY = 0x1065, "Set Member State Reply";
        /// Member Data.
        MEMBER_DATA = 0x3010, "Member Data";
        /// Group Data.
        GROUP_DATA = 0x3011, "Group Data";
        /// Weight Entry.
        WEIGHT_ENTRY = 0x3012, "Weight Entry";
        /// Member State Instance.
        MEMBER_STATE_INSTANCE = 0x3013, "Member State Instance";
        /// Group of Member Data.
        GROUP_OF_MEMBER_DATA = 0x4010, "Group of Member Data";
        /// Group of Weight Entry Data.
        GROUP_OF_WEIGHT_ENTRY_DATA = 0x4011, "Group of Weight Entry Data";
        /// Group of Member State Data.
        GROUP_OF_MEMBER_STATE_DATA = 0x4012, "Group of Member State Data";
    }
}

impl ComponentType {
    /// The type of the reply to a message of this type, if the number has the pattern of a request: 0x1010 to 0x10F0 with
    /// a low nibble of 0. Such a message need not exist.
    pub const fn reply(self) -> Option<ComponentType> {
        if self.0 & 0xFF0F == 0x1000 && self.0 != 0x1000 { Some(ComponentType(self.0 + 5)) } else { None }
    }
}

wire_code! {
    /// The result in a reply.
    ReturnCode(u8) "2" {
        /// The request was done.
        SUCCESSFUL = 0x00, "successful";
        /// The message is not understood.
        NOT_UNDERSTOOD = 0x10, "message not understood";
        /// The GWM does not accept this message from this sender.
        NOT_ACCEPTED = 0x11, "not accepted from this sender";
        /// A member is in the group already.
        ALREADY_REGISTERED = 0x40, "member already registered";
        /// A member is not in the group.
        NOT_REGISTERED = 0x41, "application or system not registered";
        /// The LB has no such group.
        UNKNOWN_GROUP = 0x42, "unknown group name";
        /// The GWM does not know the LB.
        UNKNOWN_LB_UID = 0x43, "unknown LB UID";
        /// A member is named twice.
        DUPLICATE_MEMBER = 0x44, "duplicate member in request";
        /// A group is against the GWM's own rules or limits.
        INVALID_GROUP = 0x45, "invalid group";
        /// A group is named twice.
        DUPLICATE_GROUP = 0x46, "duplicate group in request";
        /// A group name is empty, and the request needs one.
        GROUP_NAME_SIZE = 0x50, "invalid group name size";
        /// An LB UID is empty or longer than 64 bytes.
        LB_UID_SIZE = 0x51, "invalid LB UID size";
        /// A member speaks for an LB that has not contacted this GWM.
        LB_NOT_CONTACTED = 0x61, "LB has not contacted this GWM";
    }
}

wire_code! {
    /// The reason of a deregistration. 0x80 to 0xFF are the vendor's.
    Reason(u8) "2" {
        /// No reason given.
        NONE = 0x00, "none given";
        /// Learned and purposeful.
        PURPOSEFUL = 0x01, "learned and purposeful";
    }
}

/// An LB's health: 0x00 (worst) to 0x7F (best). Higher values are reserved, and kept as received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Health(pub u8);

impl Health {
    /// The best health.
    pub const BEST: Health = Health(0x7F);
}

wire_flags! {
    /// Flags of the Registration, Deregistration and Set Member State requests.
    SenderFlags {
        /// The sender is the load balancer; without this flag, the member itself.
        LOAD_BALANCER = 0, "load-balancer";
    }
}

wire_flags! {
    /// Flags of a Member State Instance.
    MemberFlags {
        /// The member gets no new work.
        QUIESCE = 0, "quiesce";
    }
}

wire_flags! {
    /// Flags of the Set LB State request.
    LbFlags {
        /// The GWM sends weights on its own.
        PUSH = 0, "push";
        /// Members may speak for themselves.
        TRUST = 1, "trust";
        /// The GWM leaves out members whose entry has not changed.
        NO_CHANGE_NO_SEND = 2, "no-change-no-send";
    }
}

wire_flags! {
    /// Flags of a Weight Entry.
    EntryFlags {
        /// The GWM can reach the member.
        CONTACT = 0, "contact";
        /// The member is quiesced.
        QUIESCED = 1, "quiesced";
        /// The LB registered the member; without this flag, the member itself did.
        REGISTERED_BY_LB = 2, "registered-by-lb";
        /// The GWM is confident of the weight.
        CONFIDENT = 3, "confident";
    }
}
