package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/sluice-mq/sluice/internal/bench"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// metricsTimeout bounds one look at the server's metrics.
const metricsTimeout = 5 * time.Second

func (a *app) benchCommand() *cobra.Command {
	return a.noun("bench", "Measure rate, latency and CPU per message", a.benchPublish(), a.benchConsume(), a.benchLatency())
}

// benchTarget is what is measured: a node, or Kafka itself.
type benchTarget struct {
	direct  []string
	pid     int
	metrics string
}

func (t *benchTarget) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringSliceVar(&t.direct, "direct", nil, "straight against these Kafka brokers, without Sluice")
	f.IntVar(&t.pid, "server-pid", 0, "process whose CPU is counted, on this machine")
	f.StringVar(&t.metrics, "server-metrics", "", "or the URL of its /metrics")
}

func (a *app) benchDialer() bench.Dialer {
	return func() (*grpc.ClientConn, error) {
		t, err := a.target()
		if err != nil {
			return nil, err
		}
		return dial(t)
	}
}

// serverCPU is where the CPU of the measured process is read; nil: nowhere.
func (a *app) serverCPU(t *benchTarget) (func() (float64, error), error) {
	switch {
	case t.pid != 0 && t.metrics != "":
		return nil, usage("bench: --server-pid and --server-metrics exclude one another")
	case t.pid != 0:
		return bench.ProcessCPU(t.pid), nil
	case t.metrics != "":
		named, err := a.target()
		if err != nil {
			return nil, err
		}
		client := &http.Client{Timeout: metricsTimeout}
		if named.tls != nil {
			client.Transport = &http.Transport{TLSClientConfig: named.tls}
		}
		return bench.MetricsCPU(client, t.metrics, named.token), nil
	}
	return nil, nil
}

// measured prints a result and turns failed messages into the exit code.
func (a *app) measured(r bench.Result, err error) error {
	if r.Messages > 0 || r.Errors > 0 {
		if perr := a.printResult(r); perr != nil {
			return perr
		}
	}
	if err == nil && r.Errors > 0 {
		err = fmt.Errorf("bench: %d messages failed, the first one: %s", r.Errors, r.FirstError)
	}
	return err
}

func (a *app) printResult(r bench.Result) error {
	o := object{
		{"messages", r.Messages},
		{"seconds", r.Seconds},
		{"msgs_per_s", r.PerSec},
		{"mb_per_s", r.MBPerSec},
		{"p50_ms", r.P50},
		{"p99_ms", r.P99},
		{"p999_ms", r.P999},
		{"errors", r.Errors},
		{"client_cpu_us_per_msg", cpu(r.ClientCPU)},
		{"server_cpu_us_per_msg", cpu(r.ServerCPU)},
	}
	return a.print(o, func(w io.Writer) error {
		shown := make(object, 0, len(o))
		for _, f := range o {
			if v, ok := f.value.(float64); ok {
				f.value = fmt.Sprintf("%.3g", v)
				if v >= 100 {
					f.value = fmt.Sprintf("%.0f", v)
				}
			}
			shown = append(shown, f)
		}
		return describeTable(w, shown)
	})
}

// cpu is null where it was not measured.
func cpu(us *float64) any {
	if us == nil {
		return nil
	}
	return *us
}

func (a *app) benchPublish() *cobra.Command {
	var t benchTarget
	var cfg bench.PublishConfig
	c := &cobra.Command{
		Use: "publish TOPIC --messages N", Short: "Publish as fast as it goes, or at a rate", Args: args(1, 1, "TOPIC"),
		RunE: func(c *cobra.Command, topics []string) error {
			if cfg.Messages <= 0 {
				return usage("bench publish %s: needs --messages", topics[0])
			}
			cpu, err := a.serverCPU(&t)
			if err != nil {
				return err
			}
			cfg.Topic, cfg.Direct, cfg.ServerCPU = topics[0], t.direct, cpu
			if len(t.direct) == 0 {
				cfg.Dial = a.benchDialer()
			}
			return a.bench(c.Context(), "publish", cfg.Messages, func(ctx context.Context, progress func(int64)) (bench.Result, error) {
				cfg.Progress = progress
				return bench.Publish(ctx, cfg)
			})
		},
	}
	f := c.Flags()
	f.Int64Var(&cfg.Messages, "messages", 0, "how many, of all producers together")
	f.IntVar(&cfg.Size, "size", 1024, "bytes of a body")
	f.IntVar(&cfg.Batch, "batch", 100, "messages of a request")
	f.IntVar(&cfg.Producers, "producers", 1, "producers, each with a connection of its own")
	f.Float64Var(&cfg.Rate, "rate", 0, "messages a second of all producers; as fast as it goes without")
	f.IntVar(&cfg.Keys, "keys", 0, "so many keys in turn; none without")
	t.flags(c)
	return c
}

// bench runs a measurement with its progress.
func (a *app) bench(ctx context.Context, what string, total int64, run func(context.Context, func(int64)) (bench.Result, error)) error {
	p := a.startProgress(what, total)
	r, err := run(ctx, func(done int64) { p.done.Store(done) })
	p.end()
	return a.measured(r, err)
}

func (a *app) benchConsume() *cobra.Command {
	var t benchTarget
	var cfg bench.ConsumeConfig
	var order string
	c := &cobra.Command{
		Use: "consume TOPIC --group G --messages N", Short: "Consume and accept as fast as it goes", Args: args(1, 1, "TOPIC"),
		RunE: func(c *cobra.Command, topics []string) error {
			if cfg.Messages <= 0 || cfg.Group == "" {
				return usage("bench consume %s: needs --group and --messages", topics[0])
			}
			var err error
			if cfg.Order, err = parseOrder(order); err != nil {
				return err
			}
			if cfg.ServerCPU, err = a.serverCPU(&t); err != nil {
				return err
			}
			cfg.Topic, cfg.Direct = topics[0], t.direct
			if len(t.direct) == 0 {
				cfg.Dial = a.benchDialer()
			} else if cfg.Order != sluicev1.Order_ORDER_UNSPECIFIED {
				return usage("bench consume %s: --direct knows no --order; leave it out", topics[0])
			}
			return a.bench(c.Context(), "consume", cfg.Messages, func(ctx context.Context, progress func(int64)) (bench.Result, error) {
				cfg.Progress = progress
				return bench.Consume(ctx, cfg)
			})
		},
	}
	f := c.Flags()
	f.Int64Var(&cfg.Messages, "messages", 0, "how many, of all consumers together")
	f.StringVar(&cfg.Group, "group", "", "consumer group")
	f.StringVar(&order, "order", "", "none, key or partition; the group's own without")
	f.IntVar(&cfg.Consumers, "consumers", 1, "consumers, each with a connection of its own")
	f.DurationVar(&cfg.Idle, "idle", 0, "give up when nothing came for so long (default 30s)")
	t.flags(c)
	return c
}

func (a *app) benchLatency() *cobra.Command {
	var t benchTarget
	var cfg bench.LatencyConfig
	c := &cobra.Command{
		Use: "latency TOPIC --rate R --duration D", Short: "Measure the time from publisher to consumer", Args: args(1, 1, "TOPIC"),
		RunE: func(c *cobra.Command, topics []string) error {
			cpu, err := a.serverCPU(&t)
			if err != nil {
				return err
			}
			cfg.Topic, cfg.Direct, cfg.ServerCPU = topics[0], t.direct, cpu
			if len(t.direct) == 0 {
				cfg.Dial = a.benchDialer()
			}
			r, err := bench.Latency(c.Context(), cfg)
			return a.measured(r, err)
		},
	}
	f := c.Flags()
	f.Float64Var(&cfg.Rate, "rate", 1000, "messages a second")
	f.DurationVar(&cfg.Duration, "duration", 10*time.Second, "how long")
	f.IntVar(&cfg.Size, "size", 1024, "bytes of a body, at least 16")
	t.flags(c)
	return c
}
