//! The generated description: it names every path of the contract, and real answers are as it says.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tallyguard::http::{NotBegun, Ports, Served};

use crate::doubles::{Alerts, MemoryAlerts, MemoryLog, OneUser, Rows, TwoCheckpoints};
use crate::{Answer, TOKEN, board, eventful, get, post, send, serve, serve_all, served, working};

/// Contract §9.
const PROMISED: [(&str, &str); 14] = [
    ("get", "/"),
    ("get", "/metrics"),
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("get", "/api/v1/status"),
    ("get", "/api/v1/partitions"),
    ("get", "/api/v1/users/{id}"),
    ("get", "/api/v1/alerts"),
    ("get", "/api/v1/alerts/stream"),
    ("get", "/api/v1/stats"),
    ("get", "/api/v1/checkpoints"),
    ("get", "/api/v1/openapi.json"),
    ("post", "/api/v1/checkpoints"),
    ("post", "/api/v1/transactions"),
];

struct Description(Value);

impl Description {
    fn of(address: SocketAddr) -> Self {
        Self(get(address, "/api/v1/openapi.json").json())
    }

    fn operations(&self) -> BTreeSet<(String, String)> {
        let paths = self.0["paths"].as_object().unwrap().iter();
        paths
            .flat_map(|(path, methods)| methods.as_object().unwrap().keys().map(|it| (it.clone(), path.clone())))
            .collect()
    }

    /// What of an answer is not as it is documented for its status.
    #[track_caller]
    fn faults(&self, method: &str, path: &str, answer: &Answer) -> Vec<String> {
        let documented = &self.0["paths"][path][method]["responses"][answer.status.to_string()];
        assert!(documented.is_object(), "{method} {path}: {} is not documented: {}", answer.status, answer.body);
        let Some(content) = documented["content"].as_object() else { panic!("{method} {path}: no content documented") };
        let (kind, content) = content.iter().next().unwrap();
        let found = answer.headers["content-type"].split(';').next().unwrap();
        assert_eq!(found, kind, "{method} {path} {}", answer.status);
        let mut schema = content["schema"].clone();
        schema["components"] = self.0["components"].clone();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let instances = match found {
            "application/json" => vec![answer.json()],
            "application/x-ndjson" => answer.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
            _ => vec![json!(answer.body)],
        };
        let faults =
            instances.iter().flat_map(|instance| validator.iter_errors(instance).map(|error| error.to_string()));
        faults.collect()
    }

    #[track_caller]
    fn check(&self, method: &str, path: &str, answer: &Answer) {
        let faults = self.faults(method, path, answer);
        assert!(faults.is_empty(), "{method} {path} {}: {faults:?}\n{}", answer.status, answer.body);
    }
}

#[test]
fn an_answer_that_is_not_as_described_is_noticed() {
    let address = serve(&eventful());
    let description = Description::of(address);
    let mut answer = get(address, "/api/v1/status");
    for (from, to) in
        [("\"ready\":", "\"raedy\":"), ("\"lag_records\":30", "\"lag_records\":\"30\""), ("\"refused\"", "\"gone\"")]
    {
        let whole = answer.body.clone();
        answer.body = whole.replace(from, to);
        assert_ne!(answer.body, whole, "{from} is in the answer");
        assert_ne!(description.faults("get", "/api/v1/status", &answer), [] as [String; 0], "{from} as {to}");
        answer.body = whole;
    }
}

fn everything() -> Served {
    let (ports, topic) = (Ports::default(), Arc::new(MemoryAlerts::default()));
    topic.commit(0, "u-1");
    ports.set_alerts(Arc::new(Alerts(topic)));
    ports.set_ingest(Arc::new(MemoryLog::default()));
    ports.set_users(Arc::new(OneUser { known: "u-1".to_owned(), is_silent: true, asked: Mutex::default() }));
    ports.set_checkpoints(Arc::new(TwoCheckpoints::answering(Ok(()))));
    ports.set_statistics(Arc::new(Rows { count: 2, is_away: false, asked: Mutex::default() }));
    served(&eventful(), &ports)
}

#[test]
fn every_path_of_the_contract_is_described_and_no_other() {
    let description = Description::of(serve(&working()));
    let promised = PROMISED.map(|(method, path)| (method.to_owned(), path.to_owned()));
    assert_eq!(description.operations(), BTreeSet::from(promised));
    assert_eq!(description.0["info"]["version"], json!(env!("CARGO_PKG_VERSION")));
    for path in ["/api/v1/checkpoints", "/api/v1/transactions"] {
        let security = &description.0["paths"][path]["post"]["security"];
        assert_eq!(*security, json!([{"token": []}]), "{path} needs the token");
    }
    assert_eq!(description.0["components"]["securitySchemes"]["token"]["scheme"], json!("bearer"));
}

#[test]
fn answers_are_as_described() {
    let address = serve_all(everything());
    let description = Description::of(address);
    for (path, asked) in [
        ("/", "/"),
        ("/metrics", "/metrics"),
        ("/healthz", "/healthz"),
        ("/readyz", "/readyz"),
        ("/api/v1/status", "/api/v1/status"),
        ("/api/v1/partitions", "/api/v1/partitions"),
        ("/api/v1/users/{id}", "/api/v1/users/u-1"),
        ("/api/v1/alerts", "/api/v1/alerts"),
        ("/api/v1/stats", "/api/v1/stats"),
        ("/api/v1/checkpoints", "/api/v1/checkpoints"),
        ("/api/v1/openapi.json", "/api/v1/openapi.json"),
    ] {
        let answer = get(address, asked);
        assert!(answer.status == 200 || path == "/readyz", "{asked}: {} {}", answer.status, answer.body);
        description.check("get", path, &answer);
    }
    description.check("post", "/api/v1/checkpoints", &post(address, "/api/v1/checkpoints", b""));
    let body = b"{}\n{\"transaction_id\":\"t\",\"order_id\":\"o\",\"user_id\":\"u\",\"merchant_id\":\"m\",\
                 \"amount_minor\":1,\"currency\":\"EUR\",\"event_time\":1700000000000}";
    for path in ["/api/v1/transactions", "/api/v1/transactions?invalid=dead-letter"] {
        let answer = post(address, path, body);
        assert_eq!((answer.status, answer.body.lines().count()), (200, 2), "{}", answer.body);
        description.check("post", "/api/v1/transactions", &answer);
    }
    // The other sides of the union types: an instance that is ready, and one that has just begun.
    for board in [working(), board("risk-1")] {
        let address = serve(&board);
        for path in ["/api/v1/status", "/readyz"] {
            description.check("get", path, &get(address, path));
        }
    }
}

#[test]
fn refusals_are_as_described() {
    let address = serve_all(everything());
    let description = Description::of(address);
    for (path, asked, status) in [
        ("/api/v1/partitions", "/api/v1/partitions?x=1", 400),
        ("/api/v1/users/{id}", "/api/v1/users/%zz", 400),
        ("/api/v1/users/{id}", "/api/v1/users/u-2", 503),
        ("/api/v1/alerts", "/api/v1/alerts?limit=0", 400),
        ("/api/v1/alerts/stream", "/api/v1/alerts/stream?x=1", 400),
        ("/api/v1/stats", "/api/v1/stats?limit=0", 400),
        ("/api/v1/checkpoints", "/api/v1/checkpoints?x=1", 400),
    ] {
        let answer = get(address, asked);
        assert_eq!(answer.status, status, "{asked}");
        description.check("get", path, &answer);
    }
    for path in ["/api/v1/checkpoints", "/api/v1/transactions"] {
        let unauthorized = send("POST", address, path, &[], b"");
        assert_eq!(unauthorized.status, 401);
        description.check("post", path, &unauthorized);
        let wrong = post(address, &format!("{path}?x=1"), b"");
        assert_eq!(wrong.status, 400);
        description.check("post", path, &wrong);
    }
    let bearer = format!("Bearer {TOKEN}");
    let packed = [("Authorization", bearer.as_str()), ("Content-Encoding", "br")];
    description.check("post", "/api/v1/transactions", &send("POST", address, "/api/v1/transactions", &packed, b"x"));

    let nothing = serve(&working());
    for (path, asked) in [
        ("/api/v1/users/{id}", "/api/v1/users/u"),
        ("/api/v1/alerts", "/api/v1/alerts"),
        ("/api/v1/alerts/stream", "/api/v1/alerts/stream"),
        ("/api/v1/stats", "/api/v1/stats"),
        ("/api/v1/checkpoints", "/api/v1/checkpoints"),
    ] {
        let answer = get(nothing, asked);
        assert_eq!(answer.status, 503, "{asked}");
        description.check("get", path, &answer);
    }
    let ports = Ports::default();
    ports.set_checkpoints(Arc::new(TwoCheckpoints::answering(Err(NotBegun::UnderWay))));
    let busy = post(serve_all(served(&working(), &ports)), "/api/v1/checkpoints", b"");
    assert_eq!(busy.status, 409);
    description.check("post", "/api/v1/checkpoints", &busy);
}
