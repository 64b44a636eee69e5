// Command compare measures Sluice beside the bare relay against one Kafka, in
// turns and in one go, and prints medians as a Markdown table. It starts both
// processes itself and reads their CPU from /proc, so it needs Linux.
//
//	make build && go run ./test/bench/compare -bootstrap 127.0.0.1:29092
//
// What counts on a machine whose CPU is full is CPU per message and the ratio of
// rates; the rates alone say little.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluice-mq/sluice/internal/bench"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

type options struct {
	bootstrap  string
	sluice     string
	subjects   string
	runs       int
	scale      float64
	size       int
	partitions int
	producers  int
	keys       int
	latency    time.Duration
	only       string
}

func main() {
	var o options
	flag.StringVar(&o.bootstrap, "bootstrap", os.Getenv("SLUICE_TEST_KAFKA"), "Kafka brokers, comma-separated")
	flag.StringVar(&o.sluice, "sluice", "bin/sluice", "the built product")
	flag.StringVar(&o.subjects, "subjects", "relay,sluice", "who is measured; ratios are the last one's to the first one's")
	flag.IntVar(&o.runs, "runs", 5, "runs of each measurement; the medians are printed")
	flag.Float64Var(&o.scale, "scale", 1, "factor on the numbers of messages")
	flag.IntVar(&o.size, "size", 1024, "bytes of a body")
	flag.IntVar(&o.partitions, "partitions", 3, "partitions of the topic")
	flag.IntVar(&o.producers, "producers", 4, "producers and consumers, each with a connection")
	flag.IntVar(&o.keys, "keys", 1000, "keys of the messages that are consumed")
	flag.DurationVar(&o.latency, "latency", 10*time.Second, "length of a latency run; 0: none")
	flag.StringVar(&o.only, "only", "", "only measurements whose name contains this")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		log.Fatalf("compare: %v", err)
	}
}

// measurement is one row of the table.
type measurement struct {
	name string
	run  func(ctx context.Context, s *subject, n int) (bench.Result, error)
}

func run(ctx context.Context, o options) error {
	if o.bootstrap == "" {
		return fmt.Errorf("-bootstrap (or SLUICE_TEST_KAFKA) names no broker")
	}
	brokers := strings.Split(o.bootstrap, ",")
	k, err := newTopics(ctx, brokers, o)
	if err != nil {
		return err
	}
	defer k.remove()
	var subjects []*subject
	for name := range strings.SplitSeq(o.subjects, ",") {
		if slices.ContainsFunc(subjects, func(s *subject) bool { return s.name == name }) {
			return fmt.Errorf("-subjects names %s twice", name)
		}
		s, err := start(ctx, name, o, k)
		if err != nil {
			return err
		}
		defer s.stop()
		subjects = append(subjects, s)
	}
	fmt.Printf("%d runs in turns, %d byte bodies, %d partitions, %d producers or consumers; CPU is that of the process in the middle, µs a message.\n\n", o.runs, o.size, o.partitions, o.producers)
	if err := compare(ctx, o, measurements(o, k), subjects); err != nil {
		return err
	}
	return latencies(ctx, o, k, subjects)
}

func measurements(o options, k *topics) []measurement {
	var ms []measurement
	for batch, n := range map[int]float64{1: 60_000, 10: 200_000, 100: 400_000} {
		ms = append(ms, measurement{fmt.Sprintf("publish, batches of %d", batch), func(ctx context.Context, s *subject, _ int) (bench.Result, error) {
			return bench.Publish(ctx, bench.PublishConfig{
				Dial: s.dial, ServerCPU: s.cpu, Topic: k.publish, Messages: int64(n * o.scale), Size: o.size, Batch: batch, Producers: o.producers,
			})
		}})
	}
	slices.SortFunc(ms, func(a, b measurement) int { return cmp.Compare(len(a.name), len(b.name)) })
	for name, order := range map[string]sluicev1.Order{"consume, un-ordered": sluicev1.Order_ORDER_NONE, "consume, by key": sluicev1.Order_ORDER_KEY} {
		ms = append(ms, measurement{name, func(ctx context.Context, s *subject, n int) (bench.Result, error) {
			return bench.Consume(ctx, bench.ConsumeConfig{
				Dial: s.dial, ServerCPU: s.cpu, Topic: k.consume, Group: k.group(fmt.Sprintf("%s-%d-%d", s.name, order, n)),
				Messages: k.loaded, Order: order, Consumers: o.producers,
			})
		}})
	}
	slices.SortStableFunc(ms[3:], func(a, b measurement) int { return -cmp.Compare(a.name, b.name) })
	return slices.DeleteFunc(ms, func(m measurement) bool { return !strings.Contains(m.name, o.only) })
}

// compare runs each measurement in turns and prints its row as soon as it has it.
func compare(ctx context.Context, o options, ms []measurement, subjects []*subject) error {
	base, us := subjects[0], subjects[len(subjects)-1]
	fmt.Printf("| | %s CPU | %s CPU | ratio | %s msg/s | %s msg/s | ratio | %s p99 ms |\n|---|---|---|---|---|---|---|---|\n", base.name, us.name, base.name, us.name, us.name)
	for _, m := range ms {
		cpu, rate, p99 := map[*subject][]float64{}, map[*subject][]float64{}, map[*subject][]float64{}
		for n := range o.runs + 1 {
			for _, s := range subjects {
				r, err := m.run(ctx, s, n)
				if err == nil && (r.Errors > 0 || r.ServerCPU == nil) {
					err = fmt.Errorf("%d errors, the first one: %s", r.Errors, r.FirstError)
				}
				if err != nil {
					return fmt.Errorf("%s through %s: %w", m.name, s.name, err)
				}
				if n == 0 {
					continue // warms up
				}
				cpu[s], rate[s], p99[s] = append(cpu[s], *r.ServerCPU), append(rate[s], r.PerSec), append(p99[s], r.P99)
			}
		}
		fmt.Printf("| %s | %.2f | %.2f | %.2f | %.0f | %.0f | %.2f | %.1f |\n", m.name,
			median(cpu[base]), median(cpu[us]), median(cpu[us])/median(cpu[base]),
			median(rate[base]), median(rate[us]), median(rate[us])/median(rate[base]), median(p99[us]))
	}
	return nil
}

// latencies compares the time from publisher to consumer with that of Kafka alone.
func latencies(ctx context.Context, o options, k *topics, subjects []*subject) error {
	if o.latency == 0 || !strings.Contains("latency", o.only) {
		return nil
	}
	fmt.Print("\nPublisher to consumer at 1,000 messages a second, ms:\n\n| | p50 | p99 | acknowledged p50 | p99 |\n|---|---|---|---|---|\n")
	ways := append([]*subject{{name: "direct"}}, subjects...)
	for _, s := range ways {
		var p50, p99, ack50, ack99 []float64
		for range o.runs {
			cfg := bench.LatencyConfig{Dial: s.dial, ServerCPU: s.cpu, Topic: k.publish, Rate: 1000, Duration: o.latency, Size: o.size}
			if s.dial == nil {
				cfg.Direct = k.brokers
			}
			if s.name == "relay" {
				continue // its groups begin at the start of the topic
			}
			r, err := bench.Latency(ctx, cfg)
			if err != nil {
				return fmt.Errorf("latency through %s: %w", s.name, err)
			}
			if r.Errors > 0 {
				return fmt.Errorf("latency through %s: %d errors, the first one: %s", s.name, r.Errors, r.FirstError)
			}
			p50, p99, ack50, ack99 = append(p50, r.P50), append(p99, r.P99), append(ack50, r.PublishP50), append(ack99, r.PublishP99)
		}
		if len(p50) > 0 {
			fmt.Printf("| %s | %.2f | %.2f | %.2f | %.2f |\n", s.name, median(p50), median(p99), median(ack50), median(ack99))
		}
	}
	return nil
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if len(v)%2 == 1 {
		return v[len(v)/2]
	}
	return (v[len(v)/2-1] + v[len(v)/2]) / 2
}

// topics are what the measurements work on, of names that nobody else has.
type topics struct {
	brokers          []string
	adm              *kadm.Client
	publish, consume string
	loaded           int64 // messages in consume
	groups           []string
}

func newTopics(ctx context.Context, brokers []string, o options) (*topics, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		return nil, fmt.Errorf("set up the admin client: %w", err)
	}
	id := fmt.Sprintf("compare-%d-%d", os.Getpid(), time.Now().Unix())
	k := &topics{brokers: brokers, adm: kadm.NewClient(cl), publish: id + "-publish", consume: id + "-consume", loaded: int64(300_000 * o.scale)}
	if _, err := k.adm.CreateTopics(ctx, int32(o.partitions), 1, nil, k.publish, k.consume); err != nil {
		cl.Close()
		return nil, fmt.Errorf("create the topics: %w", err)
	}
	r, err := bench.Publish(ctx, bench.PublishConfig{Direct: brokers, Topic: k.consume, Messages: k.loaded, Size: o.size, Keys: o.keys})
	if err == nil && r.Errors > 0 {
		err = fmt.Errorf("%d errors, the first one: %s", r.Errors, r.FirstError)
	}
	if err != nil {
		k.remove()
		return nil, fmt.Errorf("fill %s: %w", k.consume, err)
	}
	return k, nil
}

// group names a group of its own for each run, which so begins at the start.
func (k *topics) group(name string) string {
	g := k.consume + "-" + name
	if !slices.Contains(k.groups, g) {
		k.groups = append(k.groups, g)
	}
	return g
}

// remove deletes what was made, as far as the brokers let it.
func (k *topics) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := k.adm.DeleteTopics(ctx, k.publish, k.consume); err != nil {
		log.Printf("delete the topics: %v", err)
	}
	if _, err := k.adm.DeleteGroups(ctx, k.groups...); err != nil && len(k.groups) > 0 {
		log.Printf("delete the groups: %v", err)
	}
	k.adm.Close()
}
