package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/sluice-mq/sluice/gen/adminv1"
	"github.com/sluice-mq/sluice/gen/nodev1"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// run runs one command line in an environment of its own.
func run(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return runIn(t, []string{"XDG_CONFIG_HOME=" + t.TempDir()}, stdin, args...)
}

func runIn(t *testing.T, environ []string, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	code = Run(args, environ, Streams{In: strings.NewReader(stdin), Out: &out, Err: &errOut})
	return code, out.String(), errOut.String()
}

func TestWrongUsageIsOneLineAndExitCode2(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		"nonsense", "topic", "topic nonsense", "topic create", "topic create a b", "pub", "pub t b --json", "pub t b --nonsense",
		"pub t b --durability some", "pub t b --timeout 2m", "pub t --id x", "pub t b --header novalue", "pub t --key-delim \\q", "pub t b --batch 1001",
		"sub t", "sub t --group g --order some", "sub t --group g --ack some", "sub t --group g --exec true --ack reject", "sub t --group g --format %q",
		"cluster add a", "topic adopt", "topic adopt --cluster c", "topic adopt a b --as x --cluster c", "topic set a", "topic find a",
		"group reset g", "group reset g --to latest --shift 1", "group set g --order x", "group delete g", "topic delete t", "dlq purge g",
		"dlq show g", "dlq redeliver g", "token create", "token create app --admin", "bench publish t", "bench consume t",
		"-o xml version", "version x", "server --set nokey", "--server , topic list", "--dev extra",
	} {
		code, _, stderr := run(t, "", strings.Fields(line)...)
		if code != exitUsage || !strings.HasPrefix(stderr, "error: ") || strings.Count(stderr, "\n") != 1 {
			t.Errorf("sluice %s: exit code %d, stderr %q", line, code, stderr)
		}
	}
}

func TestUnknownCommandSuggests(t *testing.T) {
	t.Parallel()
	if _, _, stderr := run(t, "", "topik"); !strings.Contains(stderr, "did you mean topic?") {
		t.Errorf("got %q", stderr)
	}
}

func TestNoServerSaysSo(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"--server 127.0.0.1:1 topic list", "--server 127.0.0.1:1 node list"} {
		code, _, stderr := run(t, "", strings.Fields(line)...)
		if code != exitFailed || !strings.Contains(stderr, "127.0.0.1:1: connection refused; is it running") {
			t.Errorf("%s: exit code %d, stderr %q", line, code, stderr)
		}
	}
}

func TestConfigCheckTellsEveryFault(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte("grpc: x\nhtpp: y\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := run(t, "", "config", "check", path)
	if code != exitFailed || strings.Count(stderr, "error: config "+path+":") != 2 {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	if code, _, stderr := run(t, "", "server", "--config", path); code != exitFailed || !strings.Contains(stderr, path+":1: grpc") {
		t.Errorf("the server took it: exit code %d, stderr %q", code, stderr)
	}
}

func TestConfigShowSaysWhereFrom(t *testing.T) {
	t.Parallel()
	code, out, _ := runIn(t, []string{"SLUICE_CFG_CONTROL_TOKEN=canary-1"}, "", "config", "show", "--role", "producer", "--control", "a:1", "-o", "json")
	var values []struct{ Key, Value, Origin string }
	if err := json.Unmarshal([]byte(out), &values); code != exitOK || err != nil {
		t.Fatal(code, err, out)
	}
	got := map[string]string{}
	for _, v := range values {
		got[v.Key] = v.Value + " from " + v.Origin
	}
	if got["roles"] != "producer from flag --role" || got["control.token"] != "*** from environment SLUICE_CFG_CONTROL_TOKEN" {
		t.Errorf("%v, %v", got["roles"], got["control.token"])
	}
	if strings.Contains(out, "canary-1") {
		t.Error("secret shown")
	}
}

func TestContextsAreKeptPrivately(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	environ := []string{"XDG_CONFIG_HOME=" + dir}
	for _, line := range []string{"context set prod --server 127.0.0.1:1 --token canary-2", "context set dev --server 127.0.0.1:2", "context use prod"} {
		if code, _, stderr := runIn(t, environ, "", strings.Fields(line)...); code != exitOK {
			t.Fatal(line, stderr)
		}
	}
	_, out, _ := runIn(t, environ, "", "context", "list", "-o", "json")
	const want = `[{"name":"dev","server":"127.0.0.1:2","has_token":false,"current":false},{"name":"prod","server":"127.0.0.1:1","has_token":true,"current":true}]` + "\n"
	if d := cmp.Diff(want, out); d != "" {
		t.Error(d)
	}
	if _, _, stderr := runIn(t, environ, "", "node", "list"); !strings.Contains(stderr, "127.0.0.1:1") {
		t.Errorf("current context not used: %q", stderr)
	}
	if _, _, stderr := runIn(t, environ, "", "node", "list", "--context", "dev"); !strings.Contains(stderr, "127.0.0.1:2") {
		t.Errorf("named context not used: %q", stderr)
	}
	if code, _, stderr := runIn(t, environ, "", "node", "list", "--context", "none"); code != exitFailed || !strings.Contains(stderr, "does not exist") {
		t.Errorf("unknown context: %q", stderr)
	}
	info, err := os.Stat(filepath.Join(dir, "sluice", "contexts.yaml"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("contexts file: %v, %v", info, err)
	}
}

func TestManAndCompletion(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "man")
	if code, _, stderr := run(t, "", "man", dir); code != exitOK {
		t.Fatal(stderr)
	}
	for _, page := range []string{"sluice.1", "sluice-pub.1", "sluice-topic-create.1"} {
		if _, err := os.Stat(filepath.Join(dir, page)); err != nil {
			t.Error(err)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if code, out, _ := run(t, "", "completion", shell); code != exitOK || !strings.Contains(out, "sluice") {
			t.Errorf("completion %s: exit code %d", shell, code)
		}
	}
}

// Every command has a short text, and its flags have one too: that is what help, completion and man pages consist of.
func TestEveryCommandIsDocumented(t *testing.T) {
	t.Parallel()
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" {
			t.Errorf("%s: no short text", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newApp(nil, Streams{In: strings.NewReader(""), Out: &bytes.Buffer{}, Err: &bytes.Buffer{}}).root())
}

func TestViewHidesSecretsAndShowsOffsetsAsText(t *testing.T) {
	t.Parallel()
	text := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	token := text(view(&nodev1.Token{Id: "t", Hash: []byte("HASH"), App: "a", Kind: "app", ExpiresAtMs: 1_700_000_000_123}))
	if d := cmp.Diff(`{"id":"t","app":"a","kind":"app","expires_at":"2023-11-14T22:13:20.123Z"}`, token); d != "" {
		t.Error(d)
	}
	position := text(view(&adminv1.Position{Topic: "t", Committed: 1 << 60, EndOffset: 1<<60 + 1, Lag: 1}))
	if d := cmp.Diff(`{"topic":"t","cluster":"","partition":"","committed":"1152921504606846976","end_offset":"1152921504606846977","lag":1}`, position); d != "" {
		t.Error(d)
	}
	letter := text(view(&adminv1.DeadLetter{Message: &sluicev1.Delivery{Receipt: []byte("RECEIPT"), Body: []byte{0xff}}}))
	if strings.Contains(letter, "RECEIPT") || !strings.Contains(letter, `"body_base64":"/w=="`) {
		t.Error(letter)
	}
	group := text(view(&nodev1.Group{Subscriptions: []*nodev1.SubscriptionSettings{{Order: sluicev1.Order_ORDER_KEY}}}))
	if !strings.Contains(group, `"order":"key"`) {
		t.Error(group)
	}
}

func TestTablesEscapeControlCharacters(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := table(&b, []string{"A", "B"}, [][]string{{"x\x1b[2J", "日本"}, {"tab\there", ""}}); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(b.String(), "\x1b\t") || !strings.Contains(b.String(), `x\x1b[2J`) {
		t.Errorf("%q", b.String())
	}
}

func TestSetupSecretIsFoundInTheLink(t *testing.T) {
	t.Parallel()
	for link, want := range map[string]string{
		"slus_abc": "slus_abc", "http://127.0.0.1:7680/setup#slus_abc": "slus_abc", "http://h/setup?secret=slus_abc": "slus_abc", "https://h/setup/slus_abc": "slus_abc",
	} {
		if got, err := setupSecret(link); err != nil || got != want {
			t.Errorf("%s: %q, %v", link, got, err)
		}
	}
}
