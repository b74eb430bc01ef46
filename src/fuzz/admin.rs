//! Queries and bodies of requests to the admin side.

use crate::{
    admin::{
        Call, ROUTES,
        request::{self, Order},
    },
    coordinator::{Act, Time},
    limits,
};

/// Any query is read, or refused with a status that blames the client. The first byte chooses the path.
pub fn admin_query(data: &[u8]) {
    let Some((&choice, query)) = data.split_first() else { return };
    let query = String::from_utf8_lossy(query);
    let Some((_, route, _)) = ROUTES.get(usize::from(choice) % ROUTES.len()) else { return };
    let read = request::get(*route, &query, None);
    assert_eq!(read, request::get(*route, &query, None), "the same query means two things");
    match read {
        Ok(Call::Checks(checks)) => assert!((1..=limits::ADMIN_ROWS).contains(&checks.page.limit)),
        Ok(Call::Write(_)) => panic!("a query writes"),
        Ok(_) => {}
        Err(problem) => {
            assert!(matches!(problem.status, 400 | 409), "{problem:?}");
            assert!(!problem.message.is_empty() && problem.message.len() < 1000, "{problem:?}");
            assert_eq!(problem.response().status, problem.status);
        }
    }
}

/// Any body is read, or refused with a status that blames the client. The first byte chooses the path.
pub fn admin_body(data: &[u8]) {
    let Some((&choice, body)) = data.split_first() else { return };
    let posts: Vec<_> = ROUTES.iter().filter(|(.., post)| *post).collect();
    let Some((_, route, _)) = posts.get(usize::from(choice) % posts.len()) else { return };
    match request::post(*route, "", body) {
        Ok(Call::Write(write)) => {
            assert!((1..=256).contains(&write.reason.chars().count()), "a write without a reason");
            let act = write.act(Time(1), "there");
            assert_eq!(act.is_none(), write.order == Order::Reload);
            if let Some(Act::Say(word)) = act {
                assert!(word.expires.is_none_or(|end| word.at < end.into()), "a word that has ended");
            }
        }
        Ok(other) => panic!("a body asks: {other:?}"),
        Err(problem) => {
            assert!(matches!(problem.status, 400 | 409), "{problem:?}");
            assert!(!problem.message.is_empty() && problem.message.len() < 1000, "{problem:?}");
        }
    }
}
