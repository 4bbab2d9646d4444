//! Every script of `tests/scripts` as a test of its own: against the proxy in memory, and against
//! the daemon over its socket.

use milter_tests::scripts::{self, Through};

/// Makes a test for each script, in both ways.
macro_rules! scripts {
    ($($name:ident)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];

        mod in_memory {
            use super::{Through, check};

            $(#[tokio::test]
            async fn $name() {
                check(stringify!($name), Through::Memory).await;
            })*
        }

        mod through_daemon {
            use super::{Through, check};

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                check(stringify!($name), Through::Daemon).await;
            })*
        }
    };
}

scripts! {
    case_144_what_is_negotiated_serves_everybody
    case_145_nobody_answers_header_fields
    case_146_the_body_goes_to_those_who_want_it
    case_147_edits_need_the_header
    case_148_mail_is_always_answered
    case_149_macro_lists_are_united
    case_149_macros_at_a_helo_that_nobody_wants
    case_149_macros_that_postfix_repeats
    case_150_an_empty_macro_list
    case_151_an_old_mta
    case_152_leading_space_only_where_the_mta_has_it
    case_153_leading_space_between
    case_154_an_answer_outside_of_the_offer
    case_155_all_filters_are_down
    case_155_filters_that_are_down
    case_156_the_second_of_three_refuses_a_recipient
    case_157_a_refused_sender
    case_158_accepted_by_one_refused_by_another
    case_159_accepted_at_connect
    case_159_accepted_by_all_at_connect
    case_160_discard_at_connect_in_a_strict_route
    case_160_discard_means_nothing_at_connect
    case_161_discard_at_a_recipient
    case_162_skip_is_for_one_filter
    case_163_skip_of_all
    case_164_an_insertion_above_moves_no_index
    case_165_an_insertion_of_the_same_name_does
    case_166_a_deletion_before_a_change_on_postfix
    case_166_a_deletion_before_a_change_on_sendmail
    case_167_added_and_deleted_is_nothing
    case_168_added_and_changed_is_one_field
    case_169_insertions_from_the_bottom_up
    case_170_an_insertion_between_on_sendmail
    case_171_a_new_body_is_seen_by_the_next_and_written_once
    case_172_an_empty_body_is_one_empty_piece
    case_172_the_last_body_counts
    case_173_no_edit_of_a_message_that_is_deferred
    case_173_no_edit_of_a_message_that_is_discarded
    case_173_no_edit_of_a_message_that_is_rejected
    case_173_no_edit_of_a_message_that_is_replied
    case_174_half_of_the_edits_and_no_mail_without_the_filter
    case_174_half_of_the_edits_are_none
    case_175_reasons_of_quarantine_are_joined
    case_175_the_last_reason_in_a_strict_route
    case_176_a_refusal_is_no_quarantine
    case_179_an_abort_while_a_filter_is_at_work
    case_180_helo_then_abort
    case_181_a_second_abort
    case_183_an_answer_that_comes_too_late
    case_184_one_filter_promises_no_reply
    case_185_a_recipient_that_the_mta_refused
    case_185_a_word_about_a_recipient_that_the_mta_refused
    case_186_texts_are_put_in_order
    case_187_connection_failed_is_a_failure
    case_187_shutdown_is_a_failure
    case_192_mail_that_never_came_by_smtp
    case_193_xclient_and_starttls
    case_195_edits_on_postfix_as_measured
    case_195_edits_on_sendmail_as_measured
    case_195_postfix_as_recorded
    case_195_sendmail_as_recorded
    case_197_refused_at_the_second_connection
    case_198_a_header_field_that_one_filter_cannot_take
}

async fn check(name: &str, through: Through) {
    if let Err(error) = scripts::run(name, through).await {
        panic!("{error:#}");
    }
}

#[test]
fn every_script_is_run() {
    assert_eq!(scripts::names().unwrap(), NAMES);
}
