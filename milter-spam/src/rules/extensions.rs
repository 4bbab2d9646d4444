//! File name extensions: which are programs, which are archives, and which content types belong to
//! the common ones.

/// Extensions of what runs when it is opened, and how sure a sign that is: 2 is the whole weight of
/// the check, 1 half of it, 4 twice.
const BAD: [(&str, f64); 62] = [
    ("ace", 4.0),
    ("ade", 2.0),
    ("adp", 2.0),
    ("app", 2.0),
    ("arj", 2.0),
    ("asp", 2.0),
    ("bas", 2.0),
    ("bat", 2.0),
    ("cab", 3.0),
    ("chm", 2.0),
    ("cmd", 2.0),
    ("com", 2.0),
    ("cpl", 2.0),
    ("csh", 2.0),
    ("diagcab", 2.0),
    ("exe", 1.0),
    ("gadget", 2.0),
    ("hlp", 2.0),
    ("hta", 2.0),
    ("inf", 2.0),
    ("ins", 2.0),
    ("isp", 2.0),
    ("iso", 2.0),
    ("img", 2.0),
    ("jar", 2.0),
    ("jnlp", 2.0),
    ("js", 2.0),
    ("jse", 2.0),
    ("ksh", 2.0),
    ("lib", 2.0),
    ("lnk", 4.0),
    ("mde", 2.0),
    ("msc", 2.0),
    ("msi", 2.0),
    ("msp", 2.0),
    ("mst", 2.0),
    ("msu", 2.0),
    ("nsh", 2.0),
    ("ocx", 2.0),
    ("pif", 2.0),
    ("ps1", 2.0),
    ("psd1", 2.0),
    ("reg", 2.0),
    ("scf", 2.0),
    ("scr", 4.0),
    ("sct", 2.0),
    ("shb", 2.0),
    ("shs", 2.0),
    ("sys", 2.0),
    ("url", 2.0),
    ("vb", 2.0),
    ("vbe", 2.0),
    ("vbs", 2.0),
    ("vhd", 2.0),
    ("vhdx", 2.0),
    ("vxd", 2.0),
    ("wsc", 2.0),
    ("wsf", 2.0),
    ("wsh", 2.0),
    ("xbap", 2.0),
    ("xll", 2.0),
    ("xnk", 2.0),
];

/// Extensions of archives.
const ARCHIVES: [&str; 9] = ["7z", "ace", "arj", "bz2", "cab", "gz", "rar", "xz", "zip"];

/// Content types that files of these extensions may have.
const TYPES: [(&str, &[&str]); 12] = [
    ("pdf", &["application/pdf", "application/x-pdf"]),
    ("html", &["text/html"]),
    ("htm", &["text/html"]),
    (
        "txt",
        &[
            "text/plain",
            "message/disposition-notification",
            "text/rfc822-headers",
        ],
    ),
    ("jpg", &["image/jpeg", "image/pjpeg", "image/jpg"]),
    ("jpeg", &["image/jpeg", "image/pjpeg", "image/jpg"]),
    ("png", &["image/png", "image/x-png", "image/apng"]),
    ("gif", &["image/gif"]),
    (
        "zip",
        &[
            "application/zip",
            "application/x-zip-compressed",
            "application/x-zip",
            "application/x-compressed",
        ],
    ),
    (
        "docx",
        &[
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            "application/msword",
            "application/vnd.ms-word.document.12",
        ],
    ),
    (
        "xlsx",
        &[
            "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
            "application/vnd.ms-excel",
            "application/vnd.ms-excel.12",
        ],
    ),
    ("ics", &["text/calendar", "application/ics"]),
];

/// How sure a sign of harm an extension is, as a part of the weight of the check; `None` where it
/// is none.
pub(super) fn badness(extension: &str) -> Option<f64> {
    BAD.iter()
        .find(|(bad, _)| *bad == extension)
        .map(|(_, sure)| sure / 2.0)
}

/// Whether files of this extension hold other files.
pub(super) fn is_archive(extension: &str) -> bool {
    ARCHIVES.contains(&extension)
}

/// Whether a file of this extension may be sent as this content type. Everything may be sent as
/// bytes.
pub(super) fn fits(extension: &str, content_type: &str) -> bool {
    content_type == "application/octet-stream"
        || TYPES
            .iter()
            .find(|(known, _)| *known == extension)
            .is_none_or(|(_, types)| types.contains(&content_type))
}

/// Whether an extension is one that people take for harmless, and so hides the one behind it.
pub(super) fn is_document(extension: &str) -> bool {
    TYPES.iter().any(|(known, _)| *known == extension)
        || matches!(
            extension,
            "doc" | "xls" | "ppt" | "pptx" | "csv" | "rtf" | "odt" | "mp3" | "mp4"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_extensions() {
        assert_eq!(badness("exe"), Some(0.5));
        assert_eq!(badness("scr"), Some(2.0));
        assert_eq!(badness("txt"), None);
        assert!(is_archive("zip") && !is_archive("docx"));
        assert!(fits("pdf", "application/pdf") && !fits("pdf", "text/html"));
        assert!(fits("pdf", "application/octet-stream") && fits("dat", "text/html"));
        assert!(is_document("pdf") && is_document("doc") && !is_document("exe"));
    }
}
