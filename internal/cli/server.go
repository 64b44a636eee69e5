package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sluice-mq/sluice/internal/config"
	"github.com/sluice-mq/sluice/internal/node"
	"github.com/sluice-mq/sluice/internal/telemetry"
)

// openTimeout is how long a node may take to open its stores and reach the control plane for the first time.
const openTimeout = 2 * time.Minute

// serverFlag is a flag of the server that stands for a key of the configuration.
type serverFlag struct{ name, key, usage string }

var serverFlags = []serverFlag{
	{"data", "data", "folder for everything the node keeps (default ./sluice-data)"},
	{"role", "roles", "producer, consumer and control, with commas (default all)"},
	{"grpc", "grpc", "gRPC listener (default 127.0.0.1:7600; port 0 picks a free one)"},
	{"http", "http", "HTTP listener (default 127.0.0.1:7680; port 0 picks a free one)"},
	{"control", "control.addresses", "gRPC addresses of the control plane, for a node without that role"},
	{"advertise", "advertise", "host under which others reach this node"},
	{"node", "node", "name of this node"},
	{"tls-cert", "tls.cert", "PEM file with the listeners' certificate"},
	{"tls-key", "tls.key", "PEM file with its key"},
	{"tls-ca", "tls.ca", "PEM file with the CA of client certificates"},
}

// configFile names the flag with the configuration file.
const configFile = "config"

// serverFlags binds the flags of the server to a command.
func (a *app) serverFlags(c *cobra.Command) {
	f := c.Flags()
	f.String(configFile, "", "configuration file (YAML); see `sluice config reference`")
	f.Bool("dev", false, "anonymous work on the loopback, topics made at their first use")
	f.Bool("insecure-listen", false, "allow listeners off the loopback without TLS")
	for _, s := range serverFlags {
		f.String(s.name, "", s.usage)
	}
	f.StringArray("set", nil, "set a key of the configuration, KEY=VALUE; may repeat")
	if c.RunE == nil {
		c.RunE = func(c *cobra.Command, _ []string) error { return a.serve(c) }
	}
}

func (a *app) serverCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "server", Short: "Run a node", Args: args(0, 0, "no arguments"),
		Long: "Run a node. Flags win over environment variables SLUICE_CFG_..., those over the file, that over the defaults.\n" +
			"SIGTERM or SIGINT drains and stops, a second one ends at once; SIGHUP reads the file and the certificates again.",
	}
	a.serverFlags(c)
	return c
}

// loadConfig makes the configuration of a command line.
func (a *app) loadConfig(f *pflag.FlagSet) (*config.Config, error) {
	src := config.Source{Environ: a.environ}
	src.File, _ = f.GetString(configFile)
	add := func(key, value, origin string) {
		src.Flags = append(src.Flags, config.Setting{Key: key, Value: value, Origin: origin})
	}
	if sets, _ := f.GetStringArray("set"); sets != nil {
		for _, kv := range sets {
			key, value, ok := strings.Cut(kv, "=")
			if !ok {
				return nil, usage("--set %q: is not KEY=VALUE", kv)
			}
			add(key, value, "flag --set")
		}
	}
	for _, b := range []struct{ flag, key string }{{"dev", "dev"}, {"insecure-listen", "insecure_listen"}} {
		if f.Changed(b.flag) {
			add(b.key, f.Lookup(b.flag).Value.String(), "flag --"+b.flag)
		}
	}
	for _, s := range serverFlags {
		if f.Changed(s.name) {
			add(s.key, f.Lookup(s.name).Value.String(), "flag --"+s.name)
		}
	}
	return config.Load(src)
}

// serve runs a node until a signal.
func (a *app) serve(c *cobra.Command) error {
	cfg, err := a.loadConfig(c.Flags())
	if err != nil {
		return err
	}
	log, err := telemetry.NewLogger(a.Err, cfg.Log)
	if err != nil {
		return err
	}
	defer log.Flush()
	n, err := a.start(c.Context(), cfg, log.Logger)
	if err != nil {
		return err
	}
	a.greet(cfg, n)
	failed := a.wait(n, log, cfg, c.Flags())
	a.unblockSignals() // from here on a signal ends the process at once
	return errors.Join(failed, a.stopNode(cfg, n, log.Logger))
}

// start opens a node and lets it serve; what was opened is undone where that fails.
func (a *app) start(ctx context.Context, cfg *config.Config, log *slog.Logger) (*node.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	n, err := node.New(ctx, cfg, log)
	if err == nil {
		err = n.Start(ctx)
	}
	if err == nil {
		return n, nil
	}
	if n != nil {
		err = errors.Join(err, a.stopNode(cfg, n, log))
	}
	return nil, err
}

func (a *app) stopNode(cfg *config.Config, n *node.Node, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(context.Background(), cfg.DrainTimeout)
	defer cancel()
	begun := time.Now()
	err := n.Stop(ctx)
	log.Info("node stopped", "node", n.Name(), "took", time.Since(begun).Round(time.Millisecond))
	return err
}

// greet says where the node serves and what to do next.
func (a *app) greet(cfg *config.Config, n *node.Node) {
	scheme := "http"
	if cfg.TLS.Enabled() {
		scheme = "https"
	}
	next := "Next:\n  echo hello | sluice pub demo --server " + n.GRPCAddr() + "\n  sluice sub demo --group g --server " + n.GRPCAddr() + "\n"
	if link := n.SetupLink(); link != "" {
		next = "No administrator exists yet. This link makes one; it works once, for 24 hours:\n  " + link +
			"\nor: sluice setup --server " + n.GRPCAddr() + " LINK\n"
	}
	fmt.Fprintf(a.Out, "Sluice %s, node %s\n  gRPC  %s\n  HTTP  %s://%s\n%s",
		telemetry.ReadBuild().Version, n.Name(), n.GRPCAddr(), scheme, n.HTTPAddr(), next)
}

// wait returns when a signal asks to stop, or with the error of a listener that ended by itself. SIGHUP reloads.
func (a *app) wait(n *node.Node, log *telemetry.Logger, cfg *config.Config, f *pflag.FlagSet) error {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	for {
		select {
		case <-a.signalled:
			log.Info("stopping: a second signal ends at once")
			return nil
		case err := <-n.Failed():
			return err
		case <-hangups:
			cfg = a.reload(n, log, cfg, f)
		}
	}
}

// reload takes over what may change while the node runs. A broken file changes nothing.
func (a *app) reload(n *node.Node, log *telemetry.Logger, old *config.Config, f *pflag.FlagSet) *config.Config {
	if err := n.Reload(); err != nil {
		log.Error("certificates are not reloaded: the old ones stay", "err", err)
	}
	now, err := a.loadConfig(f)
	if err != nil {
		log.Error("configuration is not reloaded: it stays as it was", "err", err)
		return old
	}
	live, restart := config.Changed(old, now)
	if err := log.SetLevel(now.Log.Level); err != nil {
		log.Error("log level is not changed", "err", err)
	}
	log.Info("reloaded", "changed", live)
	if len(restart) > 0 {
		log.Warn("changed keys that need a restart", "keys", restart)
	}
	return now
}
