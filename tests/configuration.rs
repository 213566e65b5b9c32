//! What an operator sees of the configuration: defaults, refusals, environment, secrets, the commands around it.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::Write;
use std::process::{Command, Output};
use std::time::Duration;

use rdkafka::config::FromClientConfig as _;
use tallyguard::config::client::client_config;
use tallyguard::config::{Mode, Refusal, Settings, StartAt, from_text};
use tallyguard::domain::duration::Millis;
use tallyguard::domain::rule::Severity;
use tallyguard::stats::Target;

const EXAMPLE: &str = include_str!("../deploy/tallyguard.toml");

fn legal(text: &str, variables: &[(&str, &str)]) -> Settings {
    from_text(text, variables).unwrap_or_else(|refusal| panic!("refused:\n{refusal}\n{text}"))
}

fn refused(text: &str, variables: &[(&str, &str)]) -> Refusal {
    from_text(text, variables).err().unwrap_or_else(|| panic!("taken as legal:\n{text}\n{variables:?}"))
}

fn secret_file(content: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("temporary file");
    file.write_all(content.as_bytes()).expect("temporary file");
    file
}

fn path(file: &tempfile::NamedTempFile) -> &str {
    file.path().to_str().expect("path in UTF-8")
}

#[test]
fn a_weaker_guarantee_is_legal_and_said_at_every_start() {
    for (mode, meaning) in [("at-least-once", "twice"), ("at-most-once", "missing for ever")] {
        let delivery = format!("[delivery]\nmode = '{mode}'\ntransaction_timeout = '1s'\nmax_commit_interval = '1s'");
        let warnings = legal(&delivery, &[]).warnings;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        let named = format!("delivery.mode = \"{mode}\"");
        assert!(warnings[0].contains(&named) && warnings[0].contains(meaning), "{warnings:?}");
        let warnings = legal(&format!("{delivery}\n[source]\nkind = 'embedded'"), &[]).warnings;
        assert!(warnings.iter().any(|warning| warning.contains("two synced writes")), "{warnings:?}");
    }
    assert!(legal("[delivery]\nmode = 'exactly-once'", &[]).warnings.is_empty());
}

#[test]
fn an_empty_configuration_is_that_of_the_contract() {
    let settings = legal("", &[]);
    assert!(!settings.instance.id.is_empty(), "the host name");
    assert_eq!(settings.instance.state_dir.to_str(), Some("state"));
    assert!(settings.instance.threads >= 1);
    assert_eq!((settings.source.topic.as_str(), settings.source.group.as_str()), ("transactions", "tallyguard"));
    assert_eq!(settings.source.start, StartAt::Earliest);
    assert_eq!(settings.kafka.brokers, "127.0.0.1:9092");
    assert_eq!(settings.kafka.startup_timeout, Duration::from_secs(30));
    assert_eq!(settings.rules.len(), 1);
    let rule = &settings.rules[0];
    assert_eq!((rule.id.as_str(), rule.version, rule.window), ("velocity-1m", 1, Millis(60_000)));
    assert_eq!((rule.window_text.as_str(), rule.max_transactions, rule.severity), ("1m", 10, Severity::High));
    assert_eq!(settings.time.out_of_orderness, Millis(60_000));
    assert_eq!(settings.time.max_future_skew, Millis(60_000));
    assert_eq!(settings.alerts.topic, "alerts");
    assert_eq!(settings.alerts.late_topic, "transactions.late");
    assert_eq!(settings.alerts.dead_letter_topic, "transactions.dead-letter");
    assert_eq!(settings.delivery.mode, Mode::ExactlyOnce);
    assert_eq!(settings.delivery.max_commit_interval, Duration::from_millis(100));
    assert_eq!(settings.delivery.transaction_timeout, Duration::from_secs(15));
    assert_eq!(settings.checkpoint.interval, Duration::from_secs(10));
    assert_eq!(settings.checkpoint.min_pause, Duration::from_secs(1));
    assert_eq!(settings.checkpoint.timeout, Duration::from_secs(60));
    assert_eq!((settings.checkpoint.tolerable_failures, settings.checkpoint.retain), (3, 3));
    assert!(settings.stats.enabled && settings.stats.migrate && !settings.stats.orders);
    assert_eq!(settings.stats.flush_interval, Duration::from_millis(500));
    assert_eq!(settings.stats.batch_rows, 1_000);
    assert_eq!(settings.http.listen.to_string(), "127.0.0.1:8088");
    assert!(settings.http.admin_token.is_none());
    assert_eq!(settings.warnings, Vec::<String>::new());
}

#[test]
fn the_example_file_says_the_defaults() {
    let shown = |settings: Settings| settings.effective_toml().expect("TOML");
    assert_eq!(shown(legal(EXAMPLE, &[])), shown(legal("", &[])));
}

#[test]
fn the_example_file_is_legal_with_every_comment_of_a_key_taken_in() {
    let password = secret_file("hunter2\n");
    let text = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(key) if key.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) => key,
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n")
        .replace("/run/secrets/kafka-password", path(&password))
        // The machine of a test has no such file; `probe` stands for wherever the system keeps its own.
        .replace("/etc/tallyguard/ca.pem", "probe");
    let settings = legal(&text, &[]);
    assert_eq!(settings.transactional_id(), "tallyguard-risk-1");
    assert_eq!(client_config(&settings).get("security.protocol"), Some("SASL_SSL"));
    assert_eq!(client_config(&settings).get("sasl.password"), Some("hunter2"));
}

#[test]
fn output_topics_follow_the_name_of_the_source() {
    let settings = legal("[source]\ntopic = 'payments'", &[]);
    assert_eq!(settings.alerts.late_topic, "payments.late");
    assert_eq!(settings.alerts.dead_letter_topic, "payments.dead-letter");
}

#[test]
fn a_rule_keeps_its_window_as_it_was_written() {
    let settings = legal("[[rules]]\nid = 'a'\nwindow = '60s'\nmax_transactions = 3", &[]);
    let rule = &settings.rules[0];
    assert_eq!((rule.window, rule.window_text.as_str()), (Millis(60_000), "60s"));
    assert_eq!((rule.version, rule.severity), (1, Severity::High));
}

/// Text, the key that must be named, and a part of what must be said about it.
const REFUSED: &[(&str, &str, &str)] = &[
    ("nonsense = 1", "nonsense = 1", "unknown key"),
    ("[source]\ntopc = 'x'", "source.topc = \"x\"", "`topic`"),
    ("[[rules]]\nid='a'\nwindow='1m'\nmax_transactions=1\nlimit=2", "rules[0].limit = 2", "unknown key"),
    ("[source", "line 1", "not TOML"),
    ("instance = 5", "instance = 5", "a table"),
    ("[instance]\nid = ''", "instance.id = \"\"", "1 to 200 bytes"),
    ("[instance]\nid = \"a\\tb\"", "instance.id", "control characters"),
    ("[instance]\nstate_dir = ''", "instance.state_dir", "directory"),
    ("[instance]\nthreads = 2000", "instance.threads = 2000", "1024"),
    ("[instance]\nthreads = -1", "instance.threads = -1", "whole number"),
    ("[embedded]\npartitions = 0", "embedded.partitions = 0", "a whole number from 1 to 256"),
    ("[source]\nkind = 'file'", "source.kind = \"file\"", "`kafka`"),
    ("[source]\ntopic = 'a b'", "source.topic = \"a b\"", "1 to 249"),
    ("[source]\ntopic = '..'", "source.topic = \"..\"", "1 to 249"),
    ("[source]\ngroup = ''", "source.group = \"\"", "1 to 200 bytes"),
    ("[source]\nstart = 'middle'", "source.start = \"middle\"", "`earliest` or `latest`"),
    ("[kafka]\nbrokers = ''", "kafka.brokers = \"\"", "host:port"),
    ("[kafka]\nbrokers = 'k1:x'", "kafka.brokers = \"k1:x\"", "host:port"),
    ("[kafka]\nstartup_timeout = 30", "kafka.startup_timeout = 30", "in quotes"),
    ("[kafka]\nstartup_timeout = '2h'", "kafka.startup_timeout = \"2h\"", "1h"),
    ("rules = []", "rules = a list of 0", "1 to 31"),
    ("[[rules]]\nwindow='1m'\nmax_transactions=1", "rules[0].id", "missing"),
    ("[[rules]]\nid='a'\nmax_transactions=1", "rules[0].window", "missing"),
    ("[[rules]]\nid='a'\nwindow='1m'", "rules[0].max_transactions", "missing"),
    ("[[rules]]\nid='a|b'\nwindow='1m'\nmax_transactions=1", "rules[0].id = \"a|b\"", "`|`"),
    ("[[rules]]\nid='a'\nwindow='1m'\nmax_transactions=1\nversion=0", "rules[0].version = 0", "from 1"),
    ("[[rules]]\nid='a'\nwindow='0s'\nmax_transactions=1", "rules[0].window = \"0s\"", "1s to 24h"),
    ("[[rules]]\nid='a'\nwindow='25h'\nmax_transactions=1", "rules[0].window = \"25h\"", "1s to 24h"),
    ("[[rules]]\nid='a'\nwindow='1500ms'\nmax_transactions=1", "rules[0].window = \"1500ms\"", "whole seconds"),
    ("[[rules]]\nid='a'\nwindow='1m'\nmax_transactions=0", "rules[0].max_transactions = 0", "from 1"),
    (
        "[[rules]]\nid='a'\nwindow='1m'\nmax_transactions=1\nseverity='loud'",
        "rules[0].severity = \"loud\"",
        "`critical`",
    ),
    ("[time]\nout_of_orderness = '25h'", "time.out_of_orderness = \"25h\"", "0s to 24h"),
    ("[time]\nmax_future_skew = '0s'", "time.max_future_skew = \"0s\"", "1ms"),
    ("[alerts]\ntopic = 'transactions'", "alerts.topic = \"transactions\"", "collides with source.topic"),
    ("[alerts]\nlate_topic = 'alerts'", "alerts.late_topic = \"alerts\"", "collides with alerts.topic"),
    (
        "[alerts]\ndead_letter_topic = 'transactions_late'",
        "alerts.dead_letter_topic",
        "collides with alerts.late_topic",
    ),
    ("[alerts]\ntopic = ''", "alerts.topic = \"\"", "1 to 249"),
    ("[delivery]\nmode = 'twice'", "delivery.mode = \"twice\"", "`exactly-once`"),
    ("[delivery]\ntransaction_timeout = '500ms'", "delivery.transaction_timeout = \"500ms\"", "1s to 15m"),
    ("[delivery]\ntransaction_timeout = '16m'", "delivery.transaction_timeout = \"16m\"", "1s to 15m"),
    ("[delivery]\nmax_commit_interval = '4s'", "delivery.max_commit_interval = \"4s\"", "a fifth"),
    ("[checkpoint]\ninterval = '50ms'", "checkpoint.interval = \"50ms\"", "100ms"),
    ("[checkpoint]\ntimeout = '0s'", "checkpoint.timeout = \"0s\"", "100ms"),
    ("[checkpoint]\nmin_pause = '-1s'", "checkpoint.min_pause = \"-1s\"", "length of time"),
    ("[checkpoint]\ntolerable_failures = -1", "checkpoint.tolerable_failures = -1", "whole number"),
    ("[checkpoint]\nretain = 0", "checkpoint.retain = 0", "1 to 1000"),
    ("[stats]\nenabled = 'yes'", "stats.enabled = \"yes\"", "true or false"),
    ("[stats]\nurl = 'postgres://u@h/d'", "stats.url", "mysql://"),
    ("[stats]\nurl = 'mysql://u@h:port/d'", "stats.url", "mysql://user@host:port/database"),
    ("[stats]\nurl = 'mysql://u@h:3306'", "stats.url", "names no database"),
    ("[stats]\nurl = 'sqlite:s.sqlite'", "stats.url = \"sqlite:s.sqlite\"", "mysql://user@host:port/database"),
    ("[stats]\nurl = 'sqlite:s.sqlite'", "could not share a file", "source.kind = \"embedded\""),
    (
        "[stats]\nurl = 'mysql://u:hunter2@h/d'\npassword = 'hunter2'",
        "stats.url = \"mysql://u:***@h/d\"",
        "one of the two",
    ),
    ("[stats]\npassword_file = '/does/not/exist'", "stats.password_file = \"/does/not/exist\"", "readable"),
    ("[stats]\npassword_file = '/dev/null'", "stats.password_file", "not empty"),
    ("[stats]\npassword = 'hunter2'\npassword_file = '/dev/null'", "stats.password_file", "not both"),
    ("[stats]\npassword = 7654321", "stats.password = ***", "a text in quotes"),
    ("[stats]\npasword = 'hunter2'", "stats.pasword = ***", "unknown key"),
    ("[stats]\nflush_interval = '1ms'", "stats.flush_interval = \"1ms\"", "10ms"),
    ("[stats]\nbatch_rows = 0", "stats.batch_rows = 0", "1 to 10000"),
    ("[stats]\nbatch_rows = 10001", "stats.batch_rows = 10001", "1 to 10000"),
    ("[http]\nlisten = 'localhost'", "http.listen = \"localhost\"", "127.0.0.1:8088"),
    ("[http]\nadmin_token = 'hunter2 hunter2'", "http.admin_token = ***", "visible ASCII"),
    ("[reconcile]\nschedule = '02:30'", "reconcile.schedule = \"02:30\"", "not yet available in this version"),
    ("[reconcile]\nschedule = 'daily'", "reconcile.schedule = \"daily\"", "HH:MM"),
];

#[test]
fn what_is_refused_is_named_with_its_value_and_what_would_be_accepted() {
    for (text, key, said) in REFUSED {
        let refusal = refused(text, &[]);
        let message = refusal.to_string();
        assert_eq!(refusal.problems.len(), 1, "{text}\n{message}");
        assert!(message.contains(key) && message.contains(said), "{text}\n{message}");
        assert!(message.contains("accepted: "), "{message}");
        assert!(!message.contains("hunter2") && !message.contains("7654321"), "a secret is shown: {message}");
    }
}

#[test]
fn everything_that_is_wrong_is_reported_at_once() {
    let refusal = refused("[source]\ntopic = ''\nstrat = 1\n[stats]\nenabled = 3\n[http]\nlisten = 'x'", &[]);
    let mut keys: Vec<_> = refusal.problems.iter().map(|problem| problem.key.as_str()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["http.listen", "source.strat", "source.topic", "stats.enabled"]);
}

#[test]
fn two_rules_of_one_id_and_more_rules_than_a_user_can_carry_are_refused() {
    let rule = |id: usize| format!("[[rules]]\nid='r{id}'\nwindow='1m'\nmax_transactions=1\n");
    let message = refused(&(rule(0) + &rule(1) + &rule(0)), &[]).to_string();
    assert!(message.contains("rules[2].id = \"r0\"") && message.contains("unlike that of rules[0]"), "{message}");
    assert_eq!(legal(&(0..31).map(rule).collect::<String>(), &[]).rules.len(), 31);
    let message = refused(&(0..32).map(rule).collect::<String>(), &[]).to_string();
    assert!(message.contains("rules = a list of 32"), "{message}");
}

/// Each commit carries every rule in at most 4,096 bytes, and the broker refuses a longer one: better before the start.
#[test]
fn rules_whose_names_do_not_fit_into_a_commit_are_refused() {
    let rule = |length: usize| {
        move |n: usize| {
            let id = format!("{n:02}-{}", "r".repeat(length - 3));
            format!("[[rules]]\nid = '{id}'\nwindow = '24h'\nmax_transactions = 4000000000\n")
        }
    };
    let refusal = refused(&(0..31).map(rule(64)).collect::<String>(), &[]);
    let keys: Vec<_> = refusal.problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["rules"]);
    let message = refusal.to_string();
    assert!(message.contains("31 rules") && message.contains("at most 4096 bytes"), "{message}");
    legal(&(0..8).map(rule(64)).collect::<String>(), &[]);
    legal(&(0..16).map(rule(8)).collect::<String>(), &[]);
}

#[test]
fn a_broken_line_is_not_repeated_because_it_may_hold_a_secret() {
    let message = refused("[stats]\npassword = 'hunter2", &[]).to_string();
    assert!(message.contains("line 2") && !message.contains("hunter2"), "{message}");
}

#[test]
fn properties_that_would_break_the_guarantee_are_refused_by_name() {
    for property in [
        "bootstrap.servers",
        "metadata.broker.list",
        "group.id",
        "group.instance.id",
        "transactional.id",
        "transaction.timeout.ms",
        "auto.offset.reset",
        "enable.auto.commit",
        "auto.commit.enable",
        "auto.commit.interval.ms",
        "enable.auto.offset.store",
        "offset.store.method",
        "isolation.level",
        "partition.assignment.strategy",
        "group.protocol",
        "enable.partition.eof",
        "enable.idempotence",
        "acks",
        "request.required.acks",
        "max.in.flight",
        "max.in.flight.requests.per.connection",
        "retries",
        "message.send.max.retries",
        "message.timeout.ms",
        "delivery.timeout.ms",
        "partitioner",
        "queuing.strategy",
        "enabled_events",
        "delivery.report.only.error",
        "allow.auto.create.topics",
    ] {
        let message = refused(&format!("[kafka.properties]\n\"{property}\" = \"1\""), &[]).to_string();
        assert!(message.starts_with(&format!("kafka.properties.{property} = \"1\" is refused: ")), "{message}");
        assert!(message.contains("accepted: leave it out") || message.contains("accepted: use "), "{message}");
    }
}

#[test]
fn properties_are_checked_by_name_value_and_together() {
    for (properties, key, said) in [
        ("\"foo.bar\" = true", "kafka.properties.foo.bar = \"true\"", "no such property"),
        ("\"my.password\" = 'hunter2'", "kafka.properties.my.password = ***", "no such property"),
        ("security.protocol = 'TLS'", "kafka.properties.security.protocol = \"TLS\"", "Invalid value"),
        ("\"linger.ms\" = [1]", "kafka.properties.linger.ms", "a text, a number, true or false"),
        ("\"session.timeout.ms\" = 400000", "kafka.properties.session.timeout.ms", "max.poll.interval.ms"),
        ("\"session.timeout.ms\" = 1500", "kafka.properties.session.timeout.ms", "heartbeat.interval.ms"),
        ("\"socket.timeout.ms\" = 20000", "kafka.properties.socket.timeout.ms", "delivery.transaction_timeout"),
        ("\"linger.ms\" = 10000", "kafka.properties.linger.ms", "delivery.transaction_timeout"),
        ("client.rack = 'a'\n\"client.rack\" = 'b'", "kafka.properties.client.rack", "given twice"),
        ("\"sasl.username_file\" = '/dev/null'", "kafka.properties.sasl.username_file", "no such property"),
    ] {
        let message = refused(&format!("[kafka.properties]\n{properties}"), &[]).to_string();
        assert!(message.starts_with(key) && message.contains(said), "{properties}\n{message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
}

#[test]
fn properties_reach_the_clients_quoted_or_not_as_text_or_number() {
    let settings = legal(
        "[instance]\nid = 'i'\n[kafka]\nbrokers = 'k1:1,k2:2'\n[kafka.properties]\nsecurity.protocol = 'SSL'\n\
         \"session.timeout.ms\" = 10000\n\"socket.keepalive.enable\" = true",
        &[
            ("TALLYGUARD__KAFKA__PROPERTIES__CLIENT_RACK", "7"),
            ("TALLYGUARD__KAFKA__PROPERTIES__SECURITY_PROTOCOL", "ssl"),
        ],
    );
    let config = client_config(&settings);
    assert_eq!(config.get("bootstrap.servers"), Some("k1:1,k2:2"));
    assert_eq!(config.get("client.id"), Some("tallyguard-i"));
    assert_eq!(config.get("security.protocol"), Some("ssl"), "the environment wins over the unquoted form too");
    assert_eq!(config.get("session.timeout.ms"), Some("10000"));
    assert_eq!(config.get("socket.keepalive.enable"), Some("true"));
    assert_eq!(config.get("client.rack"), Some("7"));
}

#[test]
fn a_client_can_be_made_of_the_defaults() {
    rdkafka::consumer::BaseConsumer::<rdkafka::consumer::DefaultConsumerContext>::from_config(&client_config(&legal(
        "",
        &[],
    )))
    .expect("client");
}

/// librdkafka judges some properties only when a client is made; an operator hears of it before the start all the same.
#[test]
fn properties_with_which_no_client_can_be_made_are_refused() {
    for (properties, named) in [
        ("'fetch.max.bytes' = 1", "fetch.max.bytes"),
        ("'receive.message.max.bytes' = 1000", "receive.message.max.bytes"),
        ("'security.protocol' = 'sasl_plaintext'\n'sasl.mechanism' = 'GSSAPI'", "GSSAPI"),
        ("'security.protocol' = 'ssl'\n'ssl.ca.location' = '/nonexistent.pem'", "ssl.ca.location"),
    ] {
        let message = refused(&format!("[kafka.properties]\n{properties}"), &[]).to_string();
        assert!(message.starts_with("kafka.properties is refused: ") && message.contains(named), "{message}");
    }
}

#[test]
fn a_variable_can_change_the_default_rule() {
    let settings = legal("", &[("TALLYGUARD__RULES__0__MAX_TRANSACTIONS", "20")]);
    assert_eq!(settings.rules.len(), 1);
    assert_eq!((settings.rules[0].id.as_str(), settings.rules[0].max_transactions), ("velocity-1m", 20));
}

#[test]
fn a_value_that_may_be_a_secret_is_not_repeated_in_a_refusal() {
    for text in [
        "[kafka.properties]\n'sasl.jaas.config' = 'hunter2'",
        "[http]\nadmin_tokn = 'hunter2'",
        "[stats]\npasword = 'hunter2'",
    ] {
        let message = refused(text, &[]).to_string();
        assert!(!message.contains("hunter2") && message.contains("***"), "{message}");
    }
}

#[test]
fn the_environment_wins_and_an_unknown_variable_is_refused() {
    let settings = legal(
        "[source]\ntopic = 'file'\n[stats]\nenabled = true",
        &[
            ("TALLYGUARD__SOURCE__TOPIC", "environment"),
            ("TALLYGUARD__STATS__ENABLED", "false"),
            ("TALLYGUARD__DELIVERY__MAX_COMMIT_INTERVAL", "50ms"),
            ("TALLYGUARD__CHECKPOINT__RETAIN", "5"),
            ("TALLYGUARD__INSTANCE__ID", "42"),
            ("TALLYGUARD__RULES", "[{id = 'a', window = '5m', max_transactions = 3, severity = 'low'}]"),
            ("TALLYGUARD__RULES__0__MAX_TRANSACTIONS", "4"),
            ("TALLYGUARD_HOME", "another program's"),
        ],
    );
    assert_eq!(settings.source.topic, "environment");
    assert!(!settings.stats.enabled);
    assert_eq!(settings.delivery.max_commit_interval, Duration::from_millis(50));
    assert_eq!(settings.checkpoint.retain, 5);
    assert_eq!(settings.transactional_id(), "tallyguard-42");
    assert_eq!((settings.rules[0].id.as_str(), settings.rules[0].max_transactions), ("a", 4));

    for (name, value, key, said) in [
        ("TALLYGUARD__STATS__ENABLE", "1", "TALLYGUARD__STATS__ENABLE = \"1\"", "ENABLED"),
        ("TALLYGUARD__STAT__ENABLED", "1", "TALLYGUARD__STAT__ENABLED = \"1\"", "STATS"),
        ("TALLYGUARD__STATS", "1", "TALLYGUARD__STATS = \"1\"", "TALLYGUARD__SECTION__KEY"),
        ("TALLYGUARD__KAFKA__PROPERTIES", "{}", "TALLYGUARD__KAFKA__PROPERTIES", "PROPERTY_NAME"),
        ("TALLYGUARD__STATS__PASWORD", "hunter2", "TALLYGUARD__STATS__PASWORD = ***", "PASSWORD"),
        ("TALLYGUARD__STATS__ENABLED", "1", "stats.enabled (from TALLYGUARD__STATS__ENABLED) = \"1\"", "true or false"),
        ("TALLYGUARD__RULES", "1m", "rules (from TALLYGUARD__RULES) = \"1m\"", "a list"),
        ("TALLYGUARD__RULES__2__ID", "a", "TALLYGUARD__RULES__2__ID", "no such rule"),
        (
            "TALLYGUARD__KAFKA__PROPERTIES__ACKS",
            "1",
            "kafka.properties.acks (from TALLYGUARD__KAFKA__PROPERTIES__ACKS)",
            "leave it out",
        ),
    ] {
        let message = refused("", &[(name, value)]).to_string();
        assert!(message.starts_with(key) && message.contains(said), "{name}\n{message}");
    }
}

#[test]
fn secrets_come_from_files_and_are_shown_nowhere() {
    let password = secret_file("hunter2 \r\n");
    let token = secret_file("hunter2-token");
    let text = format!(
        "[stats]\npassword_file = '{}'\n[http]\nadmin_token_file = '{}'\n[kafka.properties]\n\
         sasl.password_file = '{}'\n\"ssl.key.password\" = 'hunter2'",
        path(&password),
        path(&token),
        path(&password),
    );
    let file = path(&token);
    let settings = legal(&text, &[("TALLYGUARD__KAFKA__PROPERTIES__SSL_KEYSTORE_PASSWORD_FILE", file)]);
    let config = client_config(&settings);
    assert_eq!(config.get("sasl.password"), Some("hunter2 "), "only the line break is no part of it");
    assert_eq!(config.get("ssl.key.password"), Some("hunter2"));
    assert_eq!(config.get("ssl.keystore.password"), Some("hunter2-token"));
    assert_eq!(settings.http.admin_token.as_ref().map(|token| token.expose()), Some("hunter2-token"));
    let Ok(Target::MySql(connect)) = settings.stats.connect_options() else { panic!("a URL of MySQL") };
    assert!(format!("{connect:?}").contains("hunter2 "), "the database gets it");
    let shown = settings.effective_toml().expect("TOML");
    for seen in [&shown, &format!("{settings:?}"), &format!("{:?} {:?}", settings.kafka, settings.stats)] {
        assert!(!seen.contains("hunter2"), "{seen}");
    }
    assert!(shown.contains("\"ssl.key.password\" = \"***\""), "{shown}");
    assert!(shown.contains(path(&password)), "the path is no secret: {shown}");

    let settings = legal(
        "[stats]\nurl = 'mysql://u:hunter2@h/d'\n[http]\nadmin_token = 'hunter2'",
        &[("TALLYGUARD__KAFKA__PROPERTIES__SASL_PASSWORD", "hunter2")],
    );
    let shown = settings.effective_toml().expect("TOML");
    assert!(shown.contains("mysql://u:***@h/d") && shown.contains("admin_token = \"***\""), "{shown}");
    assert!(!shown.contains("hunter2") && !format!("{settings:?}").contains("hunter2"), "{shown}");
}

#[test]
fn what_is_shown_can_be_loaded_again_and_means_the_same() {
    let text = "[source]\ntopic = 'p'\n[kafka.properties]\nclient.rack = 'a'\n[[rules]]\nid = \"a 'b' ü\"\n\
                window = '1h 30m'\nmax_transactions = 4294967295\nseverity = 'critical'";
    for text in [text, ""] {
        let shown = legal(text, &[]).effective_toml().expect("TOML");
        assert_eq!(legal(&shown, &[]).effective_toml().expect("TOML"), shown);
    }
}

#[test]
fn what_is_legal_but_hardly_meant_is_warned_about() {
    let warnings = legal("[time]\nmax_future_skew = '2m'\n[stats]\nenabled = false\norders = true", &[]).warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings.iter().any(|warning| warning.contains("time.max_future_skew = \"2m\"")), "{warnings:?}");
    assert!(warnings.iter().any(|warning| warning.contains("stats.orders")), "{warnings:?}");
}

#[test]
fn the_published_schema_is_that_of_the_program() {
    let schema = format!("{:#}\n", tallyguard::config::schema());
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/config.v1.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(file, &schema).expect("schema file");
    }
    let published = std::fs::read_to_string(file).expect("schema file");
    assert_eq!(published, schema, "write it anew: tallyguard config schema > schemas/config.v1.json");
}

fn tallyguard(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tallyguard")).args(arguments).env_remove("RUST_LOG").output().expect("program")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn wrong_usage_and_a_refused_configuration_end_with_2() {
    let bad = secret_file("[http]\nlisten = 'nowhere'\n[source]\ntopc = 'x'");
    for arguments in [
        &["run"] as &[&str],
        &["run", "--config", "/does/not/exist"],
        &["run", "--config", path(&bad)],
        &["config", "check", "--config", path(&bad)],
        &["config", "show", "--config", path(&bad)],
        &["topics", "create", "--config", path(&bad)],
        &["offsets", "show", "--config", path(&bad)],
        &["config", "schema", "--unknown"],
        &["unknown"],
        &[],
    ] {
        let output = tallyguard(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}\n{}", text(&output.stderr));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
    let output = tallyguard(&["--log-format", "json", "config", "check", "--config", path(&bad)]);
    let lines = text(&output.stderr);
    assert_eq!(lines.lines().count(), 2, "{lines}");
    for line in lines.lines() {
        let event: serde_json::Value = serde_json::from_str(line).expect("one JSON object per line");
        assert_eq!(event["level"], "ERROR");
    }
}

#[test]
fn help_names_the_commands_shows_examples_and_ends_with_0() {
    for (arguments, expected) in [
        (&["--help"] as &[&str], "Exit codes:"),
        (&["run", "--help"], "tallyguard run --config"),
        (&["topics", "create", "--help"], "LogAppendTime"),
        (&["offsets", "show", "--help"], "Examples:"),
        (&["config", "show", "--help"], "secrets masked"),
    ] {
        let output = tallyguard(arguments);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains(expected), "{}", text(&output.stdout));
    }
}

#[test]
fn config_commands_print_to_standard_output() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/tallyguard.toml");
    let checked = tallyguard(&["config", "check", "--config", file]);
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stderr));
    assert!(text(&checked.stdout).contains("is legal"));
    let shown = tallyguard(&["config", "show", "--config", file]);
    assert_eq!(text(&shown.stdout), legal(EXAMPLE, &[]).effective_toml().expect("TOML"));
    let schema = tallyguard(&["config", "schema"]);
    assert_eq!(text(&schema.stdout), format!("{:#}\n", tallyguard::config::schema()));
}

#[test]
fn a_broker_that_cannot_be_reached_ends_a_command_with_5() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("port");
    let file = secret_file(&format!("[kafka]\nbrokers = '{free}'\nstartup_timeout = '500ms'"));
    for arguments in [&["topics", "create", "--config", path(&file)], &["offsets", "show", "--config", path(&file)]] {
        let output = tallyguard(arguments);
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{log}");
        assert!(log.contains("Kafka stayed unreachable") && log.contains(&free.to_string()), "{log}");
    }
}
