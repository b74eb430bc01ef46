//! All metrics of the daemon in one table. The log at the stop is made from this table, and so is what monitoring
//! systems read.
//!
//! To add a metric with one value: add a row to the table below, and call [`Values::add`] or [`Values::set`] with its
//! [`Id`] where the event happens. A row in a `line` is also a field of that line of the log at the stop; every counter
//! stands in a `line` or in `by_label`. To add a metric by a label (one value for each cause): add a row to `by_label`,
//! keep one [`Counter`] for each value of the label, and give them to [`Reading::add_labelled`] where the runtime reads
//! its metrics. Names follow Prometheus: base units, and `_total` at the end of a counter.
//!
//! Each shard has its own [`Values`], and so have the coordinator and the thread of agent-checks: one thread writes, any thread reads.

mod histogram;
#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    sync::atomic::{AtomicU64, Ordering},
};

use crossbeam_utils::CachePadded;

pub use histogram::{Distribution, Histogram, Measure};

/// What a metric measures over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number of events since the start.
    Counter,
    /// A number of things now.
    Gauge,
    /// Durations or sizes, counted by octave.
    Histogram,
}

/// Whose threads write a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Each shard has a series.
    Shards,
    /// The coordinator has the only series.
    Coordinator,
    /// The thread of agent-checks has the only series.
    AgentChecks,
}

/// The label that tells apart the series of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// One series.
    None,
    /// This row of the table is the series with this name and value of the label.
    Fixed(&'static str, &'static str),
    /// One series for each value of the label with this name.
    Each(&'static str),
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// The name for monitoring systems; rows with [`Label::Fixed`] share a name.
    pub name: &'static str,
    /// One sentence for people.
    pub help: &'static str,
    /// The base unit, if the metric does not count things or events.
    pub unit: Option<&'static str>,
    /// What the metric measures.
    pub kind: Kind,
    /// Who writes the metric.
    pub owner: Owner,
    /// The label beside that of the shard.
    pub label: Label,
}

/// A row of a counter.
pub const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help, unit: None, kind: Kind::Counter, owner: Owner::Shards, label: Label::None }
}

/// A row of a gauge.
pub const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help, unit: None, kind: Kind::Gauge, owner: Owner::Shards, label: Label::None }
}

const fn seconds(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help, unit: Some("seconds"), kind: Kind::Histogram, owner: Owner::Shards, label: Label::None }
}

impl Metric {
    /// The row with a label of this value.
    pub const fn with(self, label: &'static str, value: &'static str) -> Metric {
        Metric { label: Label::Fixed(label, value), ..self }
    }

    const fn of_coordinator(self) -> Metric {
        Metric { owner: Owner::Coordinator, ..self }
    }

    const fn of_agent_checks(self) -> Metric {
        Metric { owner: Owner::AgentChecks, ..self }
    }

    /// The row with a series for each value of a label.
    pub const fn each(self, label: &'static str) -> Metric {
        Metric { label: Label::Each(label), ..self }
    }
}

/// Makes [`Id`], [`TABLE`] and [`Reading::log`] from the rows.
macro_rules! table {
    (
        $(line $text:literal { $($field:ident = $id:ident: $metric:expr;)+ })+
        by_label { $($count:ident, $prefix:literal = $labelled:ident: $by_label:expr;)+ }
        others { $($other:ident: $other_metric:expr;)+ }
    ) => {
        /// A metric's place in [`TABLE`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)] // the table has the help texts
        pub enum Id { $($($id,)+)+ $($labelled,)+ $($other,)+ }

        const ROWS: &[(Id, Metric)] = &[
            $($((Id::$id, $metric),)+)+
            $((Id::$labelled, $by_label),)+
            $((Id::$other, $other_metric),)+
        ];

        impl Reading {
            /// Logs the metrics: the line "stopped" always, other lines if one of their values is not 0.
            pub fn log(&self) {
                $(
                    if $text == "stopped" $(|| self.logged(Id::$id) > 0)+ {
                        tracing::info!($($field = self.logged(Id::$id)),+, $text);
                    }
                )+
                $(
                    for (label, total) in self.totals_by_label(Id::$labelled).into_iter().filter(|(_, total)| *total > 0) {
                        tracing::info!($count = total, concat!($prefix, ": {}"), label.text);
                    }
                )+
            }
        }
    };
}

table! {
    line "TLS handshakes" {
        full = HandshakesFull: counter("gwm_tls_handshakes_total", "TLS handshakes that ended well.").with("kind", "full");
        resumed = HandshakesResumed: counter("gwm_tls_handshakes_total", "TLS handshakes that ended well.")
            .with("kind", "resumed");
    }
    line "stopped" {
        accepted = ConnectionsAccepted: counter("gwm_connections_accepted_total", "Connections that were accepted.");
        requests = Requests: counter("gwm_requests_total", "Well-formed requests, which went to the coordinator.");
        refused = RequestsInvalid: counter(
            "gwm_requests_invalid_total",
            "Requests that a shard refused, because they were not well-formed."
        );
        throttled = RateLimitPauses: counter(
            "gwm_rate_limit_pauses_total",
            "Times that a connection was not read for a while because of --max-requests-per-second."
        );
        sent = MessagesSent: counter("gwm_messages_total", "Replies and pushes, by whether the socket took them at once.")
            .with("delayed", "false");
        delayed = MessagesDelayed: counter("gwm_messages_total", "Replies and pushes, by whether the socket took them at once.")
            .with("delayed", "true");
        load_balancers = LoadBalancers: gauge("gwm_load_balancers", "Load balancers, connected or within hold time.")
            .of_coordinator();
        groups = Groups: gauge("gwm_groups", "Groups of all load balancers.").of_coordinator();
        memberships = Memberships: gauge("gwm_memberships", "Members of all groups.").of_coordinator();
        listings = Listings: gauge("gwm_listings", "Different contents of groups with members; groups share them.")
            .of_coordinator();
    }
    line "checks" {
        passed = ChecksPassed: counter("gwm_checks_total", "Checks of members that ended.").with("result", "passed");
        failed = ChecksFailed: counter("gwm_checks_total", "Checks of members that ended.").with("result", "failed");
        inconclusive = ChecksInconclusive: counter("gwm_checks_total", "Checks of members that ended.")
            .with("result", "inconclusive");
        late_ms_p99 = CheckLateness: seconds("gwm_check_lateness_seconds", "Delays from a check's due time to its start.")
            .each("kind");
    }
    line "agent-checks" {
        accepted = AgentConnectionsAccepted: counter(
            "gwm_agent_connections_accepted_total",
            "Connections of agent-checks that were accepted."
        ).of_agent_checks();
    }
    line "fleet" {
        conflicts = FleetConflicts: counter(
            "gwm_fleet_conflicts_total",
            "Changes of two GWMs of a fleet to one thing of which something did not stay."
        ).of_coordinator();
    }
    by_label {
        requests, "not accepted (0x11)" = RequestsRefused:
            counter("gwm_requests_refused_total", "Requests that were answered with return code 0x11.")
            .each("cause").of_coordinator();
        requests, "deregistered, reason" = Deregistrations:
            counter("gwm_deregistrations_total", "Deregistrations, by the reason that they gave.")
            .each("reason").of_coordinator();
        connections, "closed" = ConnectionsClosed:
            counter("gwm_connections_closed_total", "Connections that ended.").each("cause");
        requests, "agent-checks answered" = AgentChecks:
            counter("gwm_agent_checks_total", "Agent-checks that load balancers made, by the answer.")
            .each("answer").of_agent_checks();
        takeovers, "takeovers" = Takeovers: counter("gwm_takeovers_total", "Takeovers (--takeover).").each("outcome")
            .of_coordinator();
    }
    others {
        AgentConnectionsOpen: gauge("gwm_agent_connections_open", "Connections of agent-checks that are open.")
            .of_agent_checks();
        CheckDuration: seconds("gwm_check_duration_seconds", "Times from the start of a check to its result.").each("kind");
        RequestDuration: seconds(
            "gwm_request_duration_seconds",
            "Times from a whole request to the write of its reply to the socket."
        );
        PushDelay: seconds("gwm_push_delay_seconds", "Times from the first change of a push to its write to the socket.");
        PushSize: Metric {
            unit: Some("bytes"),
            ..seconds("gwm_push_size_bytes", "Lengths of pushes.")
        }.of_coordinator();
        CoordinatorTurn: seconds("gwm_coordinator_turn_seconds", "Times that turns of the coordinator took.")
            .of_coordinator();
        BuildInfo: gauge("gwm_build_info", "1; the label is the version.").each("version").of_coordinator();
        LimitUsed: gauge("gwm_limit_used", "How much of a limit is used.").each("limit").of_coordinator();
        LimitMax: gauge("gwm_limit_max", "A limit.").each("limit").of_coordinator();
        ChecksUnderWay: gauge("gwm_checks_under_way", "Checks that run now.");
        MemberWeight: gauge("gwm_member_weight", "The weight of a member, with --metrics-members.").each("member")
            .of_coordinator();
        MemberContact: gauge("gwm_member_contact", "1 if a member has contact, with --metrics-members.").each("member")
            .of_coordinator();
        MemberConfident: gauge("gwm_member_confident", "1 if a member's weight is confident, with --metrics-members.")
            .each("member").of_coordinator();
        MemberQuiesced: gauge("gwm_member_quiesced", "1 if a member is quiesced, with --metrics-members.").each("member")
            .of_coordinator();
        ConnectionsOpen: gauge("gwm_connections_open", "Connections that are open.");
        Endpoints: gauge("gwm_endpoints", "Distinct endpoints of all members.").of_coordinator();
        EndpointsWatched: gauge("gwm_endpoints_watched", "Endpoints that the daemon checks.").of_coordinator();
        EndpointsAnswering: gauge("gwm_endpoints_answering", "Watched endpoints that answer.").of_coordinator();
        GroupsInDoubt: gauge("gwm_groups_in_doubt", "Groups of which so much is lost at once that nobody is confident.")
            .of_coordinator();
        StateStarts: gauge("gwm_state_starts", "Starts of a daemon with this state (--state), takeovers too.")
            .of_coordinator();
        StateBehind: gauge("gwm_state_behind", "1 while the disk does not take changes (--state).").of_coordinator();
        StateRepliesWaiting: gauge("gwm_state_replies_waiting", "Replies that wait until their changes are on the disk.")
            .of_coordinator();
        StateTransaction: seconds("gwm_state_transaction_seconds", "Times that transactions of the state on disk took.")
            .of_coordinator();
        FleetConnected: gauge("gwm_fleet_connected", "1 while all that etcd has is known here (--fleet).").of_coordinator();
        FleetNodes: gauge("gwm_fleet_nodes", "GWMs of the fleet that are alive, as this one knows.").of_coordinator();
        FleetRows: gauge("gwm_fleet_rows", "Load balancers, groups and words in etcd.").of_coordinator();
        FleetRowsAhead: gauge("gwm_fleet_rows_ahead", "Rows that this GWM has yet to write to etcd.").of_coordinator();
        FleetChangesWaiting: gauge("gwm_fleet_changes_waiting", "Changes here that etcd does not have yet.")
            .of_coordinator();
        FleetOrdersWaiting: gauge("gwm_fleet_orders_waiting", "Changes of others that are not done here yet.")
            .of_coordinator();
        FleetChecks: gauge("gwm_fleet_checks", "Endpoints that this GWM of a fleet checks itself.").of_coordinator();
        FleetTransaction: seconds("gwm_fleet_transaction_seconds", "Times that transactions of etcd took.")
            .of_coordinator();
        BlindOwn: gauge("gwm_blind", "1 while nothing at these addresses answers, neither members nor a witness.")
            .with("addresses", "own").of_coordinator();
        BlindForeign: gauge("gwm_blind", "1 while nothing at these addresses answers, neither members nor a witness.")
            .with("addresses", "foreign").of_coordinator();
    }
}

/// Number of rows.
const METRICS: usize = ROWS.len();

/// All metrics, by [`Id`].
pub static TABLE: [Metric; METRICS] = {
    let mut table = [ROWS[0].1; METRICS];
    let mut row = 0;
    while row < METRICS {
        table[row] = ROWS[row].1;
        row += 1;
    }
    table
};

impl Id {
    /// All metrics, in the order of the table.
    pub fn all() -> impl Iterator<Item = Id> {
        ROWS.iter().map(|(id, _)| *id)
    }

    /// The metric's row.
    pub fn metric(self) -> &'static Metric {
        &TABLE[self as usize]
    }
}

/// A number that one thread writes and any thread reads: plain loads and stores, no locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to the number. Only the thread that owns the counter may call this.
    pub fn add(&self, amount: u64) {
        self.set(self.get().wrapping_add(amount));
    }

    /// Takes from the number. Only the thread that owns the counter may call this.
    pub fn subtract(&self, amount: u64) {
        self.set(self.get().wrapping_sub(amount));
    }

    /// Replaces the number.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The metrics of one owner that have one value each, on cache lines of their own.
#[derive(Debug)]
pub struct Values(CachePadded<[Counter; METRICS]>);

impl Default for Values {
    fn default() -> Values {
        Values(CachePadded::new([const { Counter(AtomicU64::new(0)) }; METRICS]))
    }
}

impl Values {
    /// Counts one. Only the thread that owns the values may call this.
    pub fn add(&self, id: Id) {
        self.0[id as usize].add(1);
    }

    /// Counts one less of a gauge. Only the thread that owns the values may call this.
    pub fn subtract(&self, id: Id) {
        self.0[id as usize].subtract(1);
    }

    /// Replaces the value of a gauge.
    pub fn set(&self, id: Id, value: u64) {
        self.0[id as usize].set(value);
    }

    /// The value now.
    pub fn get(&self, id: Id) -> u64 {
        self.0[id as usize].get()
    }
}

/// One value of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelValue {
    /// For monitoring systems: lower case, words joined by `_`.
    pub name: Cow<'static, str>,
    /// For people.
    pub text: Cow<'static, str>,
}

impl LabelValue {
    /// The label of a variant of an enum: `PeerClosed` becomes `peer_closed`.
    pub fn of_variant(variant: &impl std::fmt::Debug, text: &'static str) -> LabelValue {
        let mut name = String::new();
        for character in format!("{variant:?}").chars() {
            if character.is_ascii_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(character.to_ascii_lowercase());
        }
        LabelValue { name: name.into(), text: text.into() }
    }
}

/// The value of one series.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a counter or a gauge.
    Number(u64),
    /// Of a gauge that is no whole number.
    Real(f64),
    /// Of a histogram.
    Distribution(Box<Distribution>),
}

/// One series, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric: a row of a table.
    pub metric: &'static Metric,
    /// The shard that counted; `None` is the coordinator.
    pub shard: Option<u16>,
    /// The value of the metric's label, if the metric has [`Label::Each`].
    pub label: Option<LabelValue>,
    /// Further labels.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: Value,
}

/// All metrics at one moment.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// The series, those of one owner together.
    pub samples: Vec<Sample>,
}

impl Reading {
    /// Adds the metrics with one value that a shard or (`None`) the coordinator writes.
    pub fn add_values(&mut self, shard: Option<u16>, values: &Values) {
        self.add_values_of(if shard.is_some() { Owner::Shards } else { Owner::Coordinator }, shard, values);
    }

    /// Adds the metrics with one value that this owner writes.
    pub fn add_values_of(&mut self, owner: Owner, shard: Option<u16>, values: &Values) {
        for id in Id::all() {
            let metric = id.metric();
            let labelled = matches!(metric.label, Label::Each(_));
            if metric.owner == owner && metric.kind != Kind::Histogram && !labelled {
                let value = Value::Number(values.get(id));
                self.samples.push(Sample { metric, shard, label: None, labels: Vec::new(), value });
            }
        }
    }

    /// Adds a series of a metric by a label.
    pub fn add_labelled(&mut self, shard: Option<u16>, id: Id, label: LabelValue, value: u64) {
        let (label, value) = (Some(label), Value::Number(value));
        self.samples.push(Sample { metric: id.metric(), shard, label, labels: Vec::new(), value });
    }

    /// Adds a series of one member.
    pub fn add_member(&mut self, id: Id, labels: [(&'static str, String); 3], value: u64) {
        let (labels, value) = (labels.into(), Value::Number(value));
        self.samples.push(Sample { metric: id.metric(), shard: None, label: None, labels, value });
    }

    /// Adds a histogram.
    pub fn add_distribution(&mut self, shard: Option<u16>, id: Id, value: Distribution) {
        let value = Value::Distribution(value.into());
        self.samples.push(Sample { metric: id.metric(), shard, label: None, labels: Vec::new(), value });
    }

    /// Adds a histogram of a metric by a label.
    pub fn add_labelled_distribution(&mut self, shard: Option<u16>, id: Id, label: LabelValue, value: Distribution) {
        let (label, value) = (Some(label), Value::Distribution(value.into()));
        self.samples.push(Sample { metric: id.metric(), shard, label, labels: Vec::new(), value });
    }

    /// The number of a metric, of all shards and the coordinator together.
    pub fn total(&self, id: Id) -> u64 {
        let number = |sample: &Sample| match &sample.value {
            Value::Number(number) => *number,
            Value::Real(_) | Value::Distribution(_) => 0,
        };
        self.of(id).map(number).sum()
    }

    /// The durations of a metric, of all shards together.
    pub fn distribution(&self, id: Id) -> Distribution {
        let mut all = Distribution::default();
        for sample in self.of(id) {
            if let Value::Distribution(one) = &sample.value {
                all.merge(one);
            }
        }
        all
    }

    /// The number for each value of a metric's label, in the order of their first appearance.
    pub fn totals_by_label(&self, id: Id) -> Vec<(&LabelValue, u64)> {
        let mut totals: Vec<(&LabelValue, u64)> = Vec::new();
        for sample in self.of(id) {
            let (Some(label), Value::Number(number)) = (&sample.label, &sample.value) else { continue };
            match totals.iter_mut().find(|(known, _)| *known == label) {
                Some((_, total)) => *total += number,
                None => totals.push((label, *number)),
            }
        }
        totals
    }

    /// A metric's value in the log at the stop: of a histogram the 99th percentile in milliseconds.
    fn logged(&self, id: Id) -> u64 {
        match id.metric().kind {
            Kind::Histogram => self.distribution(id).quantile_ms(990).unwrap_or(0),
            Kind::Counter | Kind::Gauge => self.total(id),
        }
    }

    fn of(&self, id: Id) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| std::ptr::eq(sample.metric, id.metric()))
    }
}
