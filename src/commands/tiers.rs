//! Which of podman's and docker's commands and options there are: a list that is kept true.

use clap::Command;

use super::{COMMANDS, defined};
use crate::role::Program;

/// `COMMAND: OPTIONS [- OPTIONS THAT ARE MISSING]`
const OPTIONS: &str = include_str!("tiers.txt");

/// Commands of podman and docker that there are.
const HERE: &str = "attach auto-update build builder buildx commit compose container context cp create diff events exec export generate healthcheck history image images import info init inspect kill kube load login logout logs \
    manifest mount network pause play pod port ps pull push rename restart rm rmi run save search secret start stats stop system tag top unmount unpause unshare untag update version volume wait \
    completion \
    container:attach container:cleanup container:clone container:commit container:cp container:create container:diff container:exec container:exists \
    container:export container:init container:inspect container:kill container:list container:logs container:ls container:mount container:pause container:port \
    container:prune container:ps container:rename container:restart container:rm container:run container:runlabel container:start container:stats \
    container:stop container:top container:unmount container:unpause container:update container:wait \
    image:build image:diff image:exists image:history image:import image:inspect image:list image:load image:ls image:mount \
    image:prune image:pull image:push image:rm image:save image:scp image:search image:tag image:tree image:trust image:unmount image:untag \
    context:inspect context:list context:ls context:show context:use \
    generate:kube generate:systemd kube:apply kube:down kube:generate kube:play play:kube \
    network:connect network:create network:disconnect network:exists network:inspect network:list network:ls network:prune \
    network:reload network:remove network:rm network:update \
    pod:clone pod:create pod:exists pod:inspect pod:kill pod:list pod:logs pod:ls pod:pause pod:prune pod:ps pod:restart pod:rm pod:start \
    pod:stats pod:stop pod:top pod:unpause \
    secret:create secret:exists secret:inspect secret:list secret:ls secret:rm \
    system:check system:connection system:df system:events system:info system:migrate system:prune system:renumber system:reset system:service \
    volume:create volume:exists volume:export volume:import volume:inspect volume:list volume:ls volume:mount volume:prune \
    volume:reload volume:rm volume:unmount";

/// And those that there are not, yet or on purpose.
const MISSING: &str = "container:checkpoint container:restore image:sign";

fn find<'a>(root: &'a Command, path: impl Iterator<Item = &'a str>) -> Option<&'a Command> {
    let mut command = root;
    for word in path {
        command = command.find_subcommand(word)?;
    }
    Some(command)
}

fn has(command: &Command, name: &str) -> bool {
    command
        .get_arguments()
        .any(|arg| arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name)))
}

#[test]
fn the_list_of_commands_is_true() {
    let root = defined(Program::CORACLE);
    let mut wrong = Vec::new();
    for (list, expected) in [(HERE, true), (MISSING, false)] {
        let is_wrong = |path: &&str| find(&root, path.split(':')).is_some() != expected;
        wrong.extend(list.split_whitespace().filter(is_wrong));
    }
    assert!(wrong.is_empty(), "not as src/commands/tiers.rs has it: {wrong:?}");
}

#[test]
fn the_list_of_options_is_true() {
    let root = defined(Program::CORACLE);
    let mut wrong = Vec::new();
    for line in OPTIONS.lines().filter(|line| !line.starts_with('#')) {
        let (path, options) = line.split_once(": ").expect("a colon stands after the command");
        let (here, missing) = options.split_once(" - ").unwrap_or((options, ""));
        let command = find(&root, path.split(' '));
        for (list, expected) in [(here, true), (missing, false)] {
            for name in list.split_whitespace() {
                match command {
                    Some(command) if has(command, name) != expected => {
                        wrong.push(format!("{path} --{name}: {expected}"))
                    }
                    None if expected => wrong.push(format!("{path} --{name}: there is no such command")),
                    _ => {}
                }
            }
        }
    }
    assert!(wrong.is_empty(), "not as src/commands/tiers.txt has it:\n{}", wrong.join("\n"));
}

/// Whatever is described twice is described wrongly once.
#[test]
fn every_option_has_help_and_every_command_begins_with_a_verb() {
    fn check(command: &Command, path: &str, wrong: &mut Vec<String>) {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        if !about.starts_with(char::is_uppercase) || about.ends_with('.') {
            wrong.push(format!("{path}: {about:?}"));
        }
        for arg in command.get_arguments().filter(|arg| arg.get_help().is_none() && !arg.is_hide_set()) {
            wrong.push(format!("{path} {}: no help", arg.get_id()));
        }
        for one in command.get_subcommands() {
            check(one, &format!("{path} {}", one.get_name()), wrong);
        }
    }
    let mut wrong = Vec::new();
    check(&defined(Program::CORACLE), "coracle", &mut wrong);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// clap's own checks of definitions, which it makes when a command is built.
#[test]
fn definitions_do_not_contradict_themselves() {
    for entry in COMMANDS {
        (entry.define)(Command::new(entry.name)).debug_assert();
    }
    defined(Program::CORACLE).build();
}
