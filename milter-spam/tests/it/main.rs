//! Tests of the filter as a whole: every check by cases in text files, hostile messages, random
//! ones, and the filter behind a real socket.

#![cfg(test)]

mod case;
mod cases;
mod hostile;
mod milter;
mod random;
