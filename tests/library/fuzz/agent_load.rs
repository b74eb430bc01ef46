//! The entry points of what the member's agent reads.

use gwm::fuzz;

use super::{pieces, run};

#[test]
fn agent_kernel_file() {
    const PIECES: [&str; 44] = [
        "cpu  1 2 3 4\n",
        "cpu0 ",
        "cpu1 ",
        "100 0 50 400 10 0 0 0\n",
        "200 5 60 300 9 1 1 1 0 0\n",
        "intr 5\n",
        "\0",
        "\n",
        " ",
        "0-1",
        ",",
        "3",
        "-",
        "Cpus_allowed_list:\t",
        "max",
        "50000 100000\n",
        "usage_usec ",
        "18446744073709551615",
        "0",
        "1",
        "nan",
        "1e309",
        "MemTotal: ",
        "MemAvailable: ",
        "kB\n",
        "inactive_file ",
        "some avg10=",
        "7.5",
        "-1",
        "cpu MHz\t: ",
        "0::",
        "4:cpu,cpuacct:",
        "/web",
        "/..",
        "/a b",
        " (deleted)",
        "31 24 0:26 / /sys/fs/cgroup rw",
        " - cgroup2 cgroup2 rw\n",
        " - cgroup cgroup rw,cpu,cpuacct\n",
        "\\040",
        "\\",
        "40 24 0:30 /web /m rw",
        ":",
        "é",
    ];
    run(20_000, fuzz::agent_kernel_file, |rng| pieces(rng, &PIECES, 16));
}

#[test]
fn agent_metrics_page() {
    const PIECES: [&str; 34] = [
        "r_total",
        "l_seconds",
        "_bucket",
        "_sum",
        "_count",
        "{",
        "}",
        "le=",
        "quantile=",
        "code=",
        "\"0.1\"",
        "\"+Inf\"",
        "\"0.99\"",
        "\"503\"",
        "\"",
        "\\",
        "\\n",
        ",",
        " ",
        "\n",
        "\0",
        "1",
        "0",
        "-1",
        "1e308",
        "NaN",
        "+Inf",
        "7 12345",
        "# TYPE r_total counter\n",
        "r_total{code=\"500\"} 4\n",
        "l_seconds_bucket{le=\"0.5\"} 4\n",
        "l_seconds_bucket{le=\"+Inf\"} 9\n",
        "=~",
        "!=",
    ];
    run(20_000, fuzz::agent_metrics_page, |rng| pieces(rng, &PIECES, 20));
}

#[test]
fn agent_log_line() {
    const PIECES: [&str; 18] = [
        "10.0.0.1 - - ",
        "[10/Oct/2000:13:55:36 -0700] ",
        "\"GET / HTTP/1.1\"",
        "\"",
        "\\",
        " ",
        "200",
        "503",
        "99",
        "1000",
        " 512",
        " 0.012",
        " rt=",
        "-1",
        "1e309",
        "nan",
        "\"-\"",
        "\u{e9}",
    ];
    run(20_000, fuzz::agent_log_line, |rng| pieces(rng, &PIECES, 12));
}

#[test]
fn agent_page_answer() {
    const PIECES: [&str; 20] = [
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.0 200\r\n",
        "HTTP/1.1 404 No\r\n",
        "Content-Length: ",
        "Transfer-Encoding: chunked\r\n",
        "\r\n",
        "\n",
        "4",
        "0\r\n\r\n",
        "2\r\nab\r\n",
        "2;x=y\r\na \r\n",
        "FFFFFFFFFFFFFFFF\r\n",
        "5000000",
        "a 1\n",
        "A: b\r\n",
        " ",
        "-1",
        "x",
        "\0",
        "\u{e9}",
    ];
    run(20_000, fuzz::agent_page_answer, |rng| pieces(rng, &PIECES, 10));
}

#[test]
fn agent_request() {
    const PIECES: [&str; 20] = [
        "GET ",
        "HEAD ",
        "POST ",
        "/load",
        "/orca",
        "/metrics",
        "/",
        "?",
        "form=",
        "text",
        "&",
        "web",
        "%20",
        "%",
        " HTTP/1.1",
        "\r\n",
        "\n",
        "Accept: ",
        "Endpoint-Load-Metrics-Format: ",
        "\u{e9}",
    ];
    run(20_000, fuzz::agent_request, |rng| pieces(rng, &PIECES, 12));
}
