package cli

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json/jsontext"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/sluice-mq/sluice/sdk/go"
)

const (
	// pubWindow is how many messages may wait for their result; the SDK bounds their bytes.
	pubWindow = 10_000
	// shownFailures is how many failed messages are told one by one on stderr.
	shownFailures = 10
	// maxPubTimeout is the longest deadline a node takes.
	maxPubTimeout = time.Minute
)

// pubFlags are the flags of pub.
type pubFlags struct {
	key, tag, id, partition, keyDelim, file, format, durability string
	headers                                                     []string
	lines, json                                                 bool
	batch                                                       int
	timeout                                                     time.Duration
	hasKey                                                      bool
}

func (a *app) pubCommand() *cobra.Command {
	var f pubFlags
	c := &cobra.Command{
		Use:   "pub TOPIC [BODY]",
		Short: "Publish a message, or one message a line from stdin",
		Long: "Publish BODY, or without it one message a line from stdin.\n" +
			"With -o json each message's result is printed, in order. The exit code is 0 only when all are stored.\n\n" +
			"--format reads messages as it describes them: " + verbHelp + "; %k{hex}, {base64}, {json}; \\n \\t \\xHH.",
		Args: args(1, 2, "TOPIC [BODY]"),
		RunE: func(c *cobra.Command, words []string) error {
			f.hasKey = c.Flags().Changed("key")
			src, closeSource, err := a.pubSource(&f, words[1:])
			if err != nil {
				return err
			}
			defer closeSource()
			opts, err := f.options()
			if err != nil {
				return err
			}
			return a.pub(c.Context(), words[0], src, opts)
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.key, "key", "", "key: messages with one key stay in order")
	fl.StringArrayVar(&f.headers, "header", nil, "header NAME=VALUE; may repeat")
	fl.StringVar(&f.tag, "tag", "", "tag")
	fl.StringVar(&f.id, "id", "", "id of the message, with BODY or --file; made anew for each message without")
	fl.StringVar(&f.partition, "partition", "", "partition; by key, or spread, without")
	fl.BoolVar(&f.lines, "lines", false, "one message a line from stdin (the default without BODY)")
	fl.BoolVar(&f.json, "json", false, "one JSON object a line: key, body or body_base64, headers, tag, id, partition")
	fl.StringVar(&f.file, "file", "", "the whole file is one message")
	fl.StringVar(&f.keyDelim, "key-delim", "", "each line is KEY, this, BODY")
	fl.StringVar(&f.format, "format", "", "how stdin is read, such as '%k %v\\n'")
	fl.IntVar(&f.batch, "batch", 0, "most messages that travel together (1 to 1000)")
	fl.DurationVar(&f.timeout, "timeout", 10*time.Second, "how long a message is tried, up to 1m")
	fl.StringVar(&f.durability, "durability", "replicated", "what counts as stored: replicated, or any")
	return c
}

func (f *pubFlags) options() ([]sluice.PublisherOption, error) {
	if f.timeout <= 0 || f.timeout > maxPubTimeout {
		return nil, usage("timeout %s: is out of range; up to %s is allowed", f.timeout, maxPubTimeout)
	}
	opts := []sluice.PublisherOption{sluice.Timeout(f.timeout), sluice.MaxBuffered(32<<20, pubWindow)}
	switch f.durability {
	case "replicated":
	case "any":
		opts = append(opts, sluice.WithDurability(sluice.Any))
	default:
		return nil, usage("durability %q: is unknown; use replicated or any", f.durability)
	}
	switch {
	case f.batch == 0:
		opts = append(opts, sluice.MaxBatch(256<<10, 1000)) // a pipe fills batches: fewer, larger frames
	case f.batch < 0 || f.batch > 1000:
		return nil, usage("batch %d: is out of range; 1 to 1000 is allowed", f.batch)
	default:
		opts = append(opts, sluice.MaxBatch(4<<20, f.batch))
	}
	return opts, nil
}

// pubSource is where the messages come from.
func (a *app) pubSource(f *pubFlags, body []string) (_ source, closeSource func(), _ error) {
	base, err := f.message()
	if err != nil {
		return nil, nil, err
	}
	ways := 0
	for _, used := range []bool{len(body) > 0, f.file != "", f.json, f.format != "", f.lines} {
		if used {
			ways++
		}
	}
	if ways > 1 {
		return nil, nil, usage("pub: BODY, --file, --json, --format and --lines exclude one another; give one")
	}
	single := len(body) > 0 || f.file != ""
	switch {
	case f.keyDelim != "" && (single || f.json || f.format != ""):
		return nil, nil, usage("pub: --key-delim needs one message a line from stdin")
	case f.keyDelim != "" && f.hasKey:
		return nil, nil, usage("pub: --key and --key-delim exclude one another")
	case f.id != "" && !single:
		return nil, nil, usage("pub: --id is for one message; give BODY or --file")
	}
	nothing := func() {}
	switch {
	case len(body) > 0:
		base.Body = []byte(body[0])
		return &one{m: base}, nothing, nil
	case f.file != "":
		base.Body, err = readMessageFile(f.file)
		return &one{m: base}, nothing, err
	case f.json:
		return &jsonLines{r: newReader(a.In), base: base}, nothing, nil
	case f.format != "":
		parsed, err := parseFormat(f.format)
		if err != nil {
			return nil, nil, err
		}
		if err := parsed.input(); err != nil {
			return nil, nil, err
		}
		return &formatted{r: newReader(a.In), f: parsed, base: base}, nothing, nil
	}
	delim, err := delimiter(f.keyDelim)
	return &lines{r: newReader(a.In), keyDelim: delim, base: base}, nothing, err
}

func (f *pubFlags) message() (sluice.Message, error) {
	m := sluice.Message{ID: f.id, Tag: f.tag, Partition: f.partition}
	if f.hasKey {
		m.Key = []byte(f.key)
	}
	for _, kv := range f.headers {
		name, value, ok := strings.Cut(kv, "=")
		if !ok || name == "" {
			return m, usage("header %q: is not NAME=VALUE", kv)
		}
		m.HeaderList = append(m.HeaderList, sluice.Header{Name: name, Value: []byte(value)})
	}
	return m, nil
}

func readMessageFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("message file: %w", err)
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxInputBytes+1))
	if err != nil {
		return nil, fmt.Errorf("message file: %w", err)
	}
	if len(b) > maxInputBytes {
		return nil, fmt.Errorf("message file %s: is longer than %d MiB; the largest message is 4 MiB", path, maxInputBytes>>20)
	}
	return b, nil
}

// pub publishes all of src. Results are printed in the order of the messages, while later ones are on their way.
func (a *app) pub(ctx context.Context, topic string, src source, opts []sluice.PublisherOption) error {
	client, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer client.Close(context.WithoutCancel(ctx))
	publisher := client.Publisher(topic, opts...)
	report := a.newPubReport(topic)
	slots := make(chan *slot, pubWindow)
	printed := make(chan error, 1)
	go func() { printed <- report.run(slots) }()
	readErr := feed(ctx, publisher, src, slots, report.failed)
	close(slots)
	printErr := <-printed
	report.progress.end()
	return errors.Join(readErr, printErr, report.verdict())
}

// slot waits for one message's result.
type slot struct {
	result sluice.Result
	done   chan struct{}
}

// feed hands messages over until the source ends, the user stops it, or the output breaks.
func feed(ctx context.Context, p *sluice.Publisher, src source, slots chan<- *slot, broken <-chan struct{}) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		select {
		case <-broken:
			return nil // the printer says why
		default:
		}
		m, err := src.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		s := &slot{done: make(chan struct{})}
		slots <- s // waits while as many as the window are unanswered: memory stays bounded
		p.PublishAsync(ctx, m, func(r sluice.Result) {
			s.result = r
			close(s.done)
		})
	}
}

// pubReport prints results and counts them.
type pubReport struct {
	app      *app
	topic    string
	out      *bufio.Writer
	buf      []byte
	style    string
	progress *progress
	failed   chan struct{} // closed when the output cannot be written

	stored, bad int
	first       error
}

func (a *app) newPubReport(topic string) *pubReport {
	return &pubReport{
		app: a, topic: topic, out: bufio.NewWriterSize(a.Out, 64<<10), style: a.output,
		progress: a.startProgress("publish", 0), failed: make(chan struct{}),
	}
}

// run takes slots in order. After a failed write it goes on taking them, so that nothing waits for it.
func (r *pubReport) run(slots <-chan *slot) error {
	var writeErr error
	for s := range slots {
		select {
		case <-s.done:
		default:
			if writeErr == nil {
				writeErr = r.broke(r.out.Flush()) // nothing to do: let the reader see what is there
			}
			<-s.done
		}
		r.count(&s.result)
		if writeErr == nil {
			writeErr = r.broke(r.write(&s.result))
		}
	}
	if writeErr == nil {
		writeErr = r.out.Flush()
	}
	return writeErr
}

func (r *pubReport) broke(err error) error {
	if err != nil {
		close(r.failed)
		return fmt.Errorf("output: %w", err)
	}
	return nil
}

func (r *pubReport) count(res *sluice.Result) {
	r.progress.add(1)
	if res.Err == nil {
		r.stored++
		return
	}
	r.bad++
	r.first = cmp.Or(r.first, res.Err)
	if r.bad <= shownFailures && r.style != "json" {
		r.app.note("message %d (%s) %s: %s", r.stored+r.bad, res.ID, res.Status, describe(res.Err))
	}
}

func (r *pubReport) write(res *sluice.Result) error {
	b := r.buf[:0]
	switch r.style {
	case "json":
		b = append(appendResult(b, r.topic, res), '\n')
	case "yaml":
		text, err := yaml.Dump(resultObject(r.topic, res))
		if err != nil {
			return err
		}
		b = append(append(b, "---\n"...), text...)
	default:
		return nil // the summary is enough for people
	}
	r.buf = b
	_, err := r.out.Write(b)
	return err
}

// verdict is nil when all messages are stored.
func (r *pubReport) verdict() error {
	if r.bad == 0 {
		if r.style != "json" && r.style != "yaml" {
			r.app.note("stored %d messages in topic %s", r.stored, r.topic)
		}
		return nil
	}
	return fmt.Errorf("topic %s: %d of %d messages were not stored, the first one: %s", r.topic, r.bad, r.bad+r.stored, describe(r.first))
}

// appendResult appends what became of a message, as HTTP answers it too.
func appendResult(b []byte, topic string, res *sluice.Result) []byte {
	b = quoted(append(b, `{"id":`...), res.ID)
	b = quoted(append(b, `,"topic":`...), topic)
	if res.Status == sluice.StatusStored || res.Status == sluice.StatusStoredNotReplicated {
		b = quoted(append(b, `,"cluster":`...), res.Cluster)
		b = quoted(append(b, `,"partition":`...), res.Partition)
		b = strconv.AppendInt(append(b, `,"offset":"`...), res.Offset, 10)
		b = append(b, '"')
	} else {
		b = append(b, `,"cluster":null,"partition":null,"offset":null`...)
	}
	b = append(append(b, `,"status":"`...), res.Status.String()...)
	b = append(b, `","error":`...)
	if res.Err == nil {
		return append(b, "null}"...)
	}
	code, message, retry, maybe := parts(res.Err)
	b = quoted(append(b, `{"code":`...), code)
	b = quoted(append(b, `,"message":`...), message)
	b = strconv.AppendInt(append(b, `,"retry_after_ms":`...), retry, 10)
	b = strconv.AppendBool(append(b, `,"maybe_sent":`...), maybe)
	return append(b, "}}"...)
}

func parts(err error) (code, message string, retryMs int64, maybe bool) {
	var e *sluice.Error
	if !errors.As(err, &e) {
		return string(sluice.ReasonInternal), err.Error(), 0, sluice.MaybeSent(err)
	}
	return string(e.Reason), withCause(e), e.RetryAfter.Milliseconds(), sluice.MaybeSent(err)
}

func resultObject(topic string, res *sluice.Result) any {
	var o map[string]any
	d := appendResult(nil, topic, res)
	if err := yaml.Load(d, &o); err != nil { // JSON is YAML
		return string(jsontext.Value(d))
	}
	return o
}
