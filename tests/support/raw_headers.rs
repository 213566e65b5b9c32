//! Header names that are not UTF-8: legal in Kafka, and fatal to whoever reads or writes them with the rdkafka crate.
//!
//! Tests name headers in text. A name that is UTF-8 stands as it is; any other one stands as a mark and its bytes in
//! hexadecimal, so that two different names never look the same. No ordinary name may begin with the mark.
#![allow(unsafe_code, reason = "the rdkafka crate has no form for such names")]

use std::ffi::{CStr, CString};
use std::{ptr, slice};

use rdkafka::message::BorrowedMessage;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka_sys as native;

use super::topics::TestRecord;

const MARK: &str = "\u{fffd}x";
/// `RD_KAFKA_PARTITION_UA`: the key decides.
const UNASSIGNED: i32 = -1;

/// How these bytes are written as the name of a header.
pub fn name_text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold(MARK.to_owned(), |text, byte| format!("{text}{byte:02x}")),
    }
}

/// The bytes that such a text stands for.
pub fn name_bytes(text: &str) -> Vec<u8> {
    let Some(hexadecimal) = text.strip_prefix(MARK) else { return text.as_bytes().to_vec() };
    let digits = hexadecimal.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).expect("hexadecimal")).collect()
}

/// Whether the crate's own way of producing cannot carry this record.
pub fn has_raw_name(record: &TestRecord) -> bool {
    record.headers.iter().any(|(name, _)| name.starts_with(MARK))
}

/// The headers of a record, whatever their names are.
pub fn read(message: &BorrowedMessage<'_>) -> Vec<(String, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    // SAFETY: headers, names and values belong to the message, which outlives this call; names end with a NUL.
    unsafe {
        let mut headers = ptr::null_mut();
        let none = native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
        if native::rd_kafka_message_headers(message.ptr(), &raw mut headers) != none {
            return found;
        }
        let (mut name, mut value, mut length) = (ptr::null(), ptr::null(), 0);
        while native::rd_kafka_header_get_all(headers, found.len(), &raw mut name, &raw mut value, &raw mut length)
            == none
        {
            let bytes = (!value.is_null()).then(|| slice::from_raw_parts(value.cast::<u8>(), length).to_vec());
            found.push((name_text(CStr::from_ptr(name).to_bytes()), bytes));
        }
    }
    found
}

/// Enqueues a record whose header names the crate cannot write.
pub fn produce(producer: *mut native::rd_kafka_t, topic: &str, record: &TestRecord) -> Result<(), RDKafkaErrorCode> {
    use native::rd_kafka_vtype_t as kind;
    let topic = CString::new(topic).expect("a topic name");
    let memory = |bytes: Option<&[u8]>| match bytes {
        Some(bytes) => (bytes.as_ptr().cast_mut().cast(), bytes.len()),
        None => (ptr::null_mut(), 0),
    };
    // SAFETY: every pointer stays valid during the call, which copies what it points to (MSG_F_COPY); the headers are
    // taken over on success and freed here on failure.
    unsafe {
        let headers = native::rd_kafka_headers_new(record.headers.len());
        for (name, value) in &record.headers {
            let name = name_bytes(name);
            let (data, length) = memory(value.as_deref());
            let signed = |length: usize| isize::try_from(length).expect("a length");
            native::rd_kafka_header_add(headers, name.as_ptr().cast(), signed(name.len()), data, signed(length));
        }
        let mut parts: [native::rd_kafka_vu_t; 7] = std::mem::zeroed();
        parts[0].vtype = kind::RD_KAFKA_VTYPE_TOPIC;
        parts[0].u.cstr = topic.as_ptr();
        parts[1].vtype = kind::RD_KAFKA_VTYPE_MSGFLAGS;
        parts[1].u.i = native::RD_KAFKA_MSG_F_COPY;
        for (part, kind, bytes) in [
            (2, kind::RD_KAFKA_VTYPE_VALUE, record.value.as_deref()),
            (3, kind::RD_KAFKA_VTYPE_KEY, record.key.as_deref()),
        ] {
            let (data, length) = memory(bytes);
            parts[part].vtype = kind;
            parts[part].u.mem.ptr = data;
            parts[part].u.mem.size = length;
        }
        parts[4].vtype = kind::RD_KAFKA_VTYPE_PARTITION;
        parts[4].u.i32_ = record.partition.unwrap_or(UNASSIGNED);
        parts[5].vtype = kind::RD_KAFKA_VTYPE_TIMESTAMP;
        parts[5].u.i64_ = record.timestamp.unwrap_or(0);
        parts[6].vtype = kind::RD_KAFKA_VTYPE_HEADERS;
        parts[6].u.headers = headers;
        let error = native::rd_kafka_produceva(producer, parts.as_ptr(), parts.len());
        if error.is_null() {
            return Ok(());
        }
        native::rd_kafka_headers_destroy(headers);
        let code = native::rd_kafka_error_code(error);
        native::rd_kafka_error_destroy(error);
        Err(code.into())
    }
}
