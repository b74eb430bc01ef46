use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn destination(host: u8, port: u16, weight: u32, active: u32, added: bool) -> Destination {
    let mut new = Destination::own([10, 0, 0, host].into(), port, Forward::Masquerade);
    if !added {
        new.forget_mark();
    }
    (new.weight, new.active) = (weight, active);
    new
}

fn ipvs(services: &[&str], dynamic: bool, present: &[Destination]) -> Ipvs {
    let services = services.iter().map(|text| Service::parse(text).unwrap()).collect();
    let dynamic = dynamic.then_some(Dynamic { forward: Forward::Masquerade, leave_after: HOUR });
    let mut ipvs = Ipvs::new(services, dynamic).unwrap();
    ipvs.present = vec![Some(present.to_vec()); ipvs.services.len()];
    (0..ipvs.services.len()).for_each(|at| ipvs.remember(at, present));
    ipvs
}

fn wanted(session_age: Duration, members: &[(&str, Standing)]) -> [Wanted; 1] {
    let member = |(text, standing): &(&str, Standing)| super::super::WantedMember {
        endpoint: spec::endpoint(text).unwrap(),
        label: Box::default(),
        standing: *standing,
    };
    [Wanted { pool: (*b"web").into(), members: members.iter().map(member).collect(), session_age }]
}

fn texts(steps: &[Step]) -> Vec<String> {
    steps.iter().map(|step| step.to_string().replace("tcp 10.9.0.1:80 (web): ", "")).collect()
}

#[test]
fn members_that_register_themselves_come_and_go() {
    use Standing::{Down, Serving, Usual};
    let service = ["tcp 10.9.0.1:80=web"];
    let present = [destination(1, 80, 5, 0, false), destination(2, 80, 5, 0, true)];
    let members = [("10.0.0.1:80", Serving(2)), ("10.0.0.2:80", Serving(1)), ("10.0.0.3:81", Serving(1))];
    let steps = ipvs(&service, true, &present).plan(&wanted(HOUR, &members));
    assert_eq!(
        texts(&steps),
        ["10.0.0.3:81 add with weight 1", "10.0.0.1:80 weight 5 -> 2", "10.0.0.2:80 weight 5 -> 1"]
    );
    // Not without the flag; and not if another protocol, or down.
    assert_eq!(ipvs(&service, false, &present).plan(&wanted(HOUR, &members)).len(), 2);
    let others = [("10.0.0.4:80/udp", Serving(1)), ("10.0.0.5:80", Down), ("[fd00::1]:80", Serving(1))];
    assert!(ipvs(&service, true, &present).plan(&wanted(Duration::ZERO, &others)).is_empty());
    // One that a connector has added goes when it is down, or when an old session does not list it.
    let first = ("10.0.0.1:80", Usual);
    let down = [first, ("10.0.0.2:80", Down)];
    let of = |weight, active, wanted: &[Wanted]| {
        let present = [present[0].clone(), destination(2, 80, weight, active, true)];
        texts(&ipvs(&service, true, &present).plan(wanted))
    };
    assert_eq!(of(5, 0, &wanted(Duration::ZERO, &down)), ["10.0.0.2:80 weight 5 -> 0"]);
    assert_eq!(of(0, 0, &wanted(Duration::ZERO, &down)), ["10.0.0.2:80 remove"]);
    assert_eq!(of(0, 0, &wanted(HOUR, &[first])), ["10.0.0.2:80 remove"]);
    assert_eq!(of(0, 1, &wanted(HOUR, &[first])), [""; 0], "a connection is left");
    assert_eq!(of(5, 0, &wanted(Duration::ZERO, &[first])), [""; 0], "a young session");
    // Without confidence, each has its own weight, and one that is added that of the first.
    let usual = [first, ("10.0.0.3:80", Usual)];
    let steps = ipvs(&service, true, &present[..1]).plan(&wanted(HOUR, &usual));
    assert_eq!(texts(&steps), ["10.0.0.3:80 add with weight 5"]);
    let look: Vec<bool> = present.iter().map(|found| ipvs(&service, true, &present).is_added(found)).collect();
    assert_eq!(look, [false, true]);
}

#[test]
fn only_nat_leads_to_another_port() {
    let places = |service: &str, forward| {
        let service = Service::parse(service).unwrap();
        let members = ["10.0.0.1:80", "10.0.0.1:81", "10.0.0.1", "[fd00::1]:80"];
        members.map(|member| service.place(spec::endpoint(member).unwrap(), forward).is_some())
    };
    assert_eq!(places("tcp 10.9.0.1:80=web", Forward::Masquerade), [true, true, false, false]);
    assert_eq!(places("tcp 10.9.0.1:80=web", Forward::Route), [true, false, false, false]);
    assert_eq!(places("udp 10.9.0.1:80=web", Forward::Masquerade), [false; 4]);
    assert_eq!(places("fwmark 7=web", Forward::Masquerade), [true, true, true, false]);
    assert_eq!(places("fwmark 7=web", Forward::Tunnel), [false, false, true, false]);
    assert_eq!(places("fwmark6 7=web", Forward::Masquerade), [false, false, false, true]);
}

#[test]
fn a_destination_that_is_made_again_has_a_new_weight_of_its_own() {
    let before = [destination(1, 80, 5, 0, false)];
    let mut ipvs = ipvs(&["tcp 10.9.0.1:80=web"], false, &before);
    ipvs.remember(0, &[destination(1, 80, 9, 0, false)]);
    assert_eq!(ipvs.own(0, &before[0]), 5, "it was there all the time");
    ipvs.remember(0, &[]);
    ipvs.remember(0, &[destination(1, 80, 7, 0, false)]);
    assert_eq!(ipvs.own(0, &before[0]), 7);
}

#[test]
fn weights_rise_before_others_fall_in_a_restore_too() {
    let own = [destination(1, 80, 1, 0, false), destination(2, 80, 9, 0, false)];
    let mut ipvs = ipvs(&["tcp 10.9.0.1:80=web"], false, &own);
    ipvs.present = vec![Some(vec![destination(1, 80, 9, 0, false), destination(2, 80, 0, 0, false)])];
    let steps = ipvs.restore(&[(*b"web").into()]);
    assert_eq!(texts(&steps), ["10.0.0.2:80 weight 0 -> 9", "10.0.0.1:80 weight 9 -> 1"]);
}

#[test]
fn what_is_wrong_with_a_service_is_told_again_after_it_was_right() {
    let mut ipvs = ipvs(&["tcp 10.9.0.1:80=web"], false, &[]);
    ipvs.tell(0, Some("gone".into()));
    assert_eq!(ipvs.told.len(), 1);
    ipvs.tell(0, None);
    assert!(ipvs.told.is_empty());
}
