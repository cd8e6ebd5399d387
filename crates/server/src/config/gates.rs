//! Feature gates: named switches with a stage and a default.
//!
//! `AllAlpha` and `AllBeta` switch every gate of their stage that was not named before or in the
//! same value. The printed form lists what was set, not what holds: an untouched set prints empty.
//!
//! Source: behaviour of etcd 3.7 `pkg/featuregate` and `server/features`.

use std::collections::BTreeMap;
use std::fmt;

use super::scalars::{parse_bool, quote};

/// How settled a feature is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Off unless asked for.
    Alpha,
    /// On unless refused, as a rule.
    Beta,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Alpha => "ALPHA",
            Self::Beta => "BETA",
        })
    }
}

/// One switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gate {
    /// Every alpha gate not named explicitly.
    AllAlpha,
    /// Every beta gate not named explicitly.
    AllBeta,
    /// The leader compares compaction hashes of the members.
    CompactHashCheck,
    /// A lease renewal does not wait for the applied index.
    FastLeaseKeepAlive,
    /// Compare data with the peers before serving.
    InitialCorruptCheck,
    /// The leader replicates the remaining time of leases.
    LeaseCheckpoint,
    /// Those checkpoints are kept on disk.
    LeaseCheckpointPersist,
    /// Lease revocations pass a crowded apply queue.
    PriorityRequest,
    /// Peer connections start from the advertised address.
    SetMemberLocalAddr,
    /// The health service answers NOT_SERVING during defragmentation.
    StopGrpcServiceOnDefrag,
    /// Write transactions read through a shared buffer.
    TxnModeWriteWithSharedBuffer,
}

impl Gate {
    /// Every gate, sorted by name.
    pub const ALL: [Self; 11] = [
        Self::AllAlpha,
        Self::AllBeta,
        Self::CompactHashCheck,
        Self::FastLeaseKeepAlive,
        Self::InitialCorruptCheck,
        Self::LeaseCheckpoint,
        Self::LeaseCheckpointPersist,
        Self::PriorityRequest,
        Self::SetMemberLocalAddr,
        Self::StopGrpcServiceOnDefrag,
        Self::TxnModeWriteWithSharedBuffer,
    ];

    /// The name in flags and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AllAlpha => "AllAlpha",
            Self::AllBeta => "AllBeta",
            Self::CompactHashCheck => "CompactHashCheck",
            Self::FastLeaseKeepAlive => "FastLeaseKeepAlive",
            Self::InitialCorruptCheck => "InitialCorruptCheck",
            Self::LeaseCheckpoint => "LeaseCheckpoint",
            Self::LeaseCheckpointPersist => "LeaseCheckpointPersist",
            Self::PriorityRequest => "PriorityRequest",
            Self::SetMemberLocalAddr => "SetMemberLocalAddr",
            Self::StopGrpcServiceOnDefrag => "StopGRPCServiceOnDefrag",
            Self::TxnModeWriteWithSharedBuffer => "TxnModeWriteWithSharedBuffer",
        }
    }

    /// The stage.
    pub const fn stage(self) -> Stage {
        match self {
            Self::AllBeta | Self::FastLeaseKeepAlive | Self::TxnModeWriteWithSharedBuffer => Stage::Beta,
            _ => Stage::Alpha,
        }
    }

    /// The value that holds when nobody says otherwise.
    pub const fn default_value(self) -> bool {
        matches!(self, Self::FastLeaseKeepAlive | Self::TxnModeWriteWithSharedBuffer)
    }

    fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|gate| gate.name() == name)
    }
}

/// Why a gate list was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// A name without `=value`.
    #[error("missing bool value for {0}")]
    MissingValue(String),
    /// Not a boolean.
    #[error("invalid value of {name}={value}, err: strconv.ParseBool: parsing {}: invalid syntax", quote(.value))]
    BadValue {
        /// Gate as named.
        name: String,
        /// Value as given.
        value: String,
    },
    /// Nobody knows this gate.
    #[error("unrecognized feature gate: {0}")]
    Unknown(String),
}

/// The gates as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeatureGates {
    chosen: BTreeMap<Gate, bool>,
}

impl FeatureGates {
    /// Whether the feature is on.
    pub fn enabled(&self, gate: Gate) -> bool {
        self.chosen.get(&gate).copied().unwrap_or(gate.default_value())
    }

    /// Whether the gate was named, directly or by a stage-wide switch.
    pub fn is_chosen(&self, gate: Gate) -> bool {
        self.chosen.contains_key(&gate)
    }

    /// Sets one gate.
    pub fn choose(&mut self, gate: Gate, value: bool) {
        self.chosen.insert(gate, value);
    }

    /// Merges `Name=bool[,Name=bool…]`; nothing changes when the list is refused.
    pub fn merge(&mut self, list: &str) -> Result<(), GateError> {
        let mut named = BTreeMap::new();
        for item in list.split(',').filter(|item| !item.is_empty()) {
            let Some((name, value)) = item.split_once('=') else {
                return Err(GateError::MissingValue(item.trim().to_owned()));
            };
            let (name, value) = (name.trim(), value.trim());
            let Some(on) = parse_bool(value) else {
                return Err(GateError::BadValue { name: name.to_owned(), value: value.to_owned() });
            };
            named.insert(name, on);
        }
        let mut explicit = Vec::with_capacity(named.len());
        for (name, on) in named {
            explicit.push((Gate::by_name(name).ok_or_else(|| GateError::Unknown(name.to_owned()))?, on));
        }
        self.chosen.extend(explicit.iter().copied());
        for (switch, stage) in [(Gate::AllAlpha, Stage::Alpha), (Gate::AllBeta, Stage::Beta)] {
            if let Some((_, on)) = explicit.iter().find(|(gate, _)| *gate == switch) {
                for gate in Gate::ALL.into_iter().filter(|gate| gate.stage() == stage) {
                    self.chosen.entry(gate).or_insert(*on);
                }
            }
        }
        Ok(())
    }

    /// One line per gate for the usage text.
    pub fn known() -> impl Iterator<Item = String> {
        Gate::ALL.into_iter().map(|gate| {
            format!("{}=true|false ({} - default={})", gate.name(), gate.stage(), gate.default_value())
        })
    }
}

impl fmt::Display for FeatureGates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (gate, on)) in self.chosen.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            write!(f, "{comma}{}={on}", gate.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stage_wide_switches_leave_named_gates_alone() {
        let mut gates = FeatureGates::default();
        assert_eq!(gates.to_string(), "");
        assert!(gates.enabled(Gate::FastLeaseKeepAlive));
        gates.merge("AllAlpha=true,LeaseCheckpoint=false").unwrap();
        assert!(gates.enabled(Gate::CompactHashCheck));
        assert!(!gates.enabled(Gate::LeaseCheckpoint));
        assert_eq!(
            gates.to_string(),
            "AllAlpha=true,CompactHashCheck=true,InitialCorruptCheck=true,LeaseCheckpoint=false,\
             LeaseCheckpointPersist=true,PriorityRequest=true,SetMemberLocalAddr=true,StopGRPCServiceOnDefrag=true"
        );
        gates.merge("AllBeta=false").unwrap();
        assert!(!gates.enabled(Gate::FastLeaseKeepAlive));
    }

    #[test]
    fn later_lists_merge() {
        let mut gates = FeatureGates::default();
        gates.merge("LeaseCheckpoint=true").unwrap();
        gates.merge(" PriorityRequest = 1 ,").unwrap();
        assert_eq!(gates.to_string(), "LeaseCheckpoint=true,PriorityRequest=true");
    }

    #[test]
    fn refusals_use_the_known_words() {
        let before = FeatureGates::default();
        for (list, want) in [
            ("X=true", "unrecognized feature gate: X"),
            ("AllAlpha", "missing bool value for AllAlpha"),
            (
                "AllAlpha=q",
                "invalid value of AllAlpha=q, err: strconv.ParseBool: parsing \"q\": invalid syntax",
            ),
            ("LeaseCheckpoint=true,X=true", "unrecognized feature gate: X"),
        ] {
            let mut gates = before.clone();
            assert_eq!(gates.merge(list).unwrap_err().to_string(), want);
            assert_eq!(gates, before);
        }
    }
}
