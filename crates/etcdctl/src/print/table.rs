//! Tables with borders: heading in capitals and centred, cells to the right.

use cli::print::table as draw;

use super::{Answer, hash_rows, member_rows, status_rows};

/// `None`: this format cannot show the answer.
pub(super) fn render(answer: Answer<'_>) -> Option<String> {
    Some(match answer {
        Answer::MemberList(response) => draw(
            &["ID", "STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER"],
            &member_rows(response),
        ),
        Answer::EndpointHealth(list) => {
            let row = |health: &super::Health| {
                vec![
                    health.endpoint.clone(),
                    health.health.to_string(),
                    health.took.clone(),
                    health.error.clone(),
                ]
            };
            draw(&["ENDPOINT", "HEALTH", "TOOK", "ERROR"], &list.iter().map(row).collect::<Vec<_>>())
        }
        Answer::EndpointStatus(list) => draw(
            &[
                "ENDPOINT",
                "ID",
                "VERSION",
                "STORAGE VERSION",
                "DB SIZE",
                "IN USE",
                "PERCENTAGE NOT IN USE",
                "QUOTA",
                "IS LEADER",
                "IS LEARNER",
                "RAFT TERM",
                "RAFT INDEX",
                "RAFT APPLIED INDEX",
                "ERRORS",
                "DOWNGRADE TARGET VERSION",
                "DOWNGRADE ENABLED",
            ],
            &status_rows(list),
        ),
        Answer::EndpointHashKv(list) => draw(&["ENDPOINT", "HASH", "HASH REVISION"], &hash_rows(list)),
        _ => return None,
    })
}
