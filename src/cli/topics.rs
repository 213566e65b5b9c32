//! `tallyguard topics create`: the source topic and the three output topics, with settings that suit their use.
//!
//! Only what is missing is created. A topic that exists is reported and left alone, whatever its settings.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use super::{ConfigFile, Exit, print, unreachable_or};
use crate::clock::monotonic_now;
use crate::config::Settings;
use crate::config::client::{client_config, is_unreachable};

/// Asks for the replication factor that the brokers are set up with.
const REPLICAS_OF_BROKER: i32 = -1;

#[derive(Debug, Subcommand)]
pub enum TopicsCommand {
    /// Create those of the source, alert, late and dead-letter topics that do not exist
    #[command(after_help = "\
Examples:
  tallyguard topics create --config tallyguard.toml
  tallyguard topics create --config tallyguard.toml --partitions 24 --replication-factor 3
  tallyguard topics create --config tallyguard.toml --dry-run

All four topics get cleanup.policy=delete and message.timestamp.type=LogAppendTime. The Kafka
timestamp of an alert is thus the time at which it was found; on the source topic the brokers'
clock, not a producer's, is the measure of event times from the future. With a replication factor
of 3 or more they get min.insync.replicas=2.
Topics that exist are left alone.")]
    Create(CreateArgs),
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    #[command(flatten)]
    pub file: ConfigFile,

    /// Partitions of each topic; the source topic's number bounds how many instances can share the work
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..=100_000))]
    pub partitions: i32,

    /// Replicas of each partition [default: as the brokers are set up]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=1_000))]
    pub replication_factor: Option<i32>,

    /// How long the source topic keeps transactions; a replay or a reconciliation needs them
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = retention)]
    pub source_retention: Duration,

    /// How long the alert, late and dead-letter topics keep their records
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = retention)]
    pub output_retention: Duration,

    /// Ask the brokers whether they would create the topics, and create nothing
    #[arg(long)]
    pub dry_run: bool,
}

fn retention(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if (1_000..=3_155_760_000_000).contains(&time.as_millis()) => Ok(time),
        _ => Err("accepted: a length of time from 1s to 100 years, such as 12h or 7d".to_owned()),
    }
}

/// Carries out the command.
///
/// # Errors
/// When Kafka refuses what is asked for, or a result cannot be written.
pub fn run(command: &TopicsCommand) -> anyhow::Result<Exit> {
    let TopicsCommand::Create(args) = command;
    let settings = match super::load(&args.file.config) {
        Ok(settings) => settings,
        Err(exit) => return Ok(exit),
    };
    let plans = plans(args, &settings);
    let admin: AdminClient<DefaultClientContext> = match client_config(&settings).create() {
        Ok(admin) => admin,
        Err(error) => {
            tracing::error!("kafka.properties do not make a client: {error}");
            return Ok(Exit::Usage);
        }
    };
    let deadline = monotonic_now() + settings.kafka.startup_timeout;
    let existing = match existing(&admin, deadline) {
        Ok(existing) => existing,
        Err(error) => return unreachable_or(&settings, error),
    };
    let mut missing = Vec::new();
    for plan in plans {
        match existing.get(plan.name) {
            Some(partitions) => report_existing(plan.name, *partitions, args.partitions)?,
            None => missing.push(plan),
        }
    }
    if missing.is_empty() { Ok(Exit::Done) } else { create(&admin, &missing, args, &settings, deadline) }
}

/// A topic as it is to be created.
struct Plan<'a> {
    name: &'a str,
    settings: Vec<(&'static str, String)>,
}

fn plans<'a>(args: &CreateArgs, settings: &'a Settings) -> Vec<Plan<'a>> {
    let plan = |name: &'a str, retention: Duration| {
        let mut settings = vec![
            ("cleanup.policy", "delete".to_owned()),
            ("message.timestamp.type", "LogAppendTime".to_owned()),
            ("retention.ms", retention.as_millis().to_string()),
        ];
        if args.replication_factor.is_some_and(|replicas| replicas >= 3) {
            settings.push(("min.insync.replicas", "2".to_owned()));
        }
        Plan { name, settings }
    };
    vec![
        plan(&settings.source.topic, args.source_retention),
        plan(&settings.alerts.topic, args.output_retention),
        plan(&settings.alerts.late_topic, args.output_retention),
        plan(&settings.alerts.dead_letter_topic, args.output_retention),
    ]
}

/// Names and partition counts of the cluster's topics. All are asked for: a question about one could create it.
fn existing(
    admin: &AdminClient<DefaultClientContext>,
    deadline: Instant,
) -> Result<BTreeMap<String, usize>, KafkaError> {
    let left = deadline.saturating_duration_since(monotonic_now());
    let metadata = admin.inner().fetch_metadata(None, left)?;
    Ok(metadata.topics().iter().map(|topic| (topic.name().to_owned(), topic.partitions().len())).collect())
}

fn report_existing(name: &str, found: usize, asked: i32) -> anyhow::Result<()> {
    let same = usize::try_from(asked).is_ok_and(|asked| asked == found);
    let remark = if same { String::new() } else { format!("; {asked} were asked for") };
    print(&format!("exists   {name}: {found} partition(s), left alone{remark}\n"))?;
    Ok(())
}

fn create(
    admin: &AdminClient<DefaultClientContext>,
    plans: &[Plan<'_>],
    args: &CreateArgs,
    settings: &Settings,
    deadline: Instant,
) -> anyhow::Result<Exit> {
    let replicas = args.replication_factor.unwrap_or(REPLICAS_OF_BROKER);
    let topics: Vec<NewTopic<'_>> = plans
        .iter()
        .map(|plan| NewTopic {
            name: plan.name,
            num_partitions: args.partitions,
            replication: TopicReplication::Fixed(replicas),
            config: plan.settings.iter().map(|(name, value)| (*name, value.as_str())).collect(),
        })
        .collect();
    let left = deadline.saturating_duration_since(monotonic_now()).max(Duration::from_secs(1));
    let options =
        AdminOptions::new().request_timeout(Some(left)).operation_timeout(Some(left)).validate_only(args.dry_run);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let results = match runtime.block_on(admin.create_topics(&topics, &options)) {
        Ok(results) => results,
        Err(error) => return unreachable_or(settings, error),
    };
    let mut exit = Exit::Done;
    for (plan, result) in plans.iter().zip(results) {
        match result {
            Ok(_) => report_created(plan, args)?,
            // Somebody else was quicker.
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {
                print(&format!("exists   {}: left alone\n", plan.name))?;
            }
            Err((_, code)) => {
                tracing::error!(topic = plan.name, "the topic cannot be created: {code}");
                exit = if is_unreachable(code) { Exit::KafkaUnreachable } else { Exit::Failed };
            }
        }
    }
    Ok(exit)
}

fn report_created(plan: &Plan<'_>, args: &CreateArgs) -> anyhow::Result<()> {
    let verb = if args.dry_run { "would be" } else { "created " };
    let replicas = match args.replication_factor {
        Some(replicas) => replicas.to_string(),
        None => "the brokers' default".to_owned(),
    };
    let settings: Vec<_> = plan.settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let (name, partitions, settings) = (plan.name, args.partitions, settings.join(", "));
    print(&format!("{verb} {name}: {partitions} partition(s), replicas: {replicas}, {settings}\n"))?;
    Ok(())
}
