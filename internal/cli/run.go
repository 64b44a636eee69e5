package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sluice-mq/sluice/sdk/go"
)

// Exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// Streams are what a command reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Run runs one command line, without the program's name, and returns the exit code. It takes SIGINT and
// SIGTERM while it runs.
func Run(args, environ []string, s Streams) int {
	a := newApp(environ, s)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a.signalled = ctx.Done()
	a.unblockSignals = stop
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	return a.finish(ctx, err)
}

// app is one run of the command line: what all commands share.
type app struct {
	Streams
	environ []string
	env     map[string]string

	signalled      <-chan struct{}
	unblockSignals func() // back to the default: a second signal ends the process at once

	// sdkOptions are added to the SDK's own; tests reach a fake with them.
	sdkOptions []sluice.Option

	// Global flags.
	server, token, context string
	serverCA               string
	clientCert, clientKey  string
	output                 string
	quiet                  bool
}

func newApp(environ []string, s Streams) *app {
	a := &app{Streams: s, environ: environ, env: make(map[string]string, len(environ))}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		a.env[name] = value
	}
	return a
}

// root is the whole tree of commands. Without a command it is `sluice server`.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "sluice",
		Short: "A proxy between applications and their Kafka and RocketMQ clusters",
		Long: "Sluice stands between applications and their Kafka and RocketMQ clusters.\n" +
			"Without a command it runs the server: sluice --dev is all that is needed to try it.",
		Args:          a.noCommand,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	a.serverFlags(root)
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage("%s", err) })
	f := root.PersistentFlags()
	f.StringVar(&a.server, "server", "", "gRPC addresses of the server, with commas (env SLUICE_SERVER; default 127.0.0.1:7600)")
	f.StringVar(&a.token, "token", "", "token (env SLUICE_TOKEN)")
	f.StringVar(&a.context, "context", "", "named server and token, see `sluice context` (env SLUICE_CONTEXT)")
	f.StringVar(&a.serverCA, "server-ca", "", "speak TLS to the server and trust this PEM file, or \"system\" (env SLUICE_SERVER_CA)")
	f.StringVar(&a.clientCert, "client-cert", "", "PEM file with a client certificate (env SLUICE_CLIENT_CERT)")
	f.StringVar(&a.clientKey, "client-key", "", "PEM file with its key (env SLUICE_CLIENT_KEY)")
	f.StringVarP(&a.output, "output", "o", "", "table, json or yaml")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "no progress and no notes on stderr")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp)) // fails only for an unknown flag
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		switch a.output {
		case "", "table", "json", "yaml":
			return nil
		}
		return usage("output %q: is unknown; use table, json or yaml", a.output)
	}
	root.AddCommand(
		a.serverCommand(), a.configCommand(), a.setupCommand(), a.contextCommand(),
		a.pubCommand(), a.subCommand(), a.benchCommand(),
		a.clusterCommand(), a.topicCommand(), a.groupCommand(), a.dlqCommand(),
		a.nodeCommand(), a.tokenCommand(), a.manCommand(), a.versionCommand(),
	)
	return root
}

// noCommand takes a word that is no command for what it is, with a suggestion.
func (a *app) noCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	c.SuggestionsMinimumDistance = 2
	hint := ""
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf(" (did you mean %s?)", strings.Join(near, " or "))
	}
	return usage("command %q: is unknown%s; `%s --help` lists the commands", args[0], hint, c.CommandPath())
}

// noun is a command that only groups others.
func (a *app) noun(use, short string, sub ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: a.noCommand, RunE: func(c *cobra.Command, _ []string) error {
		return usage("%s: says not what to do; `%s --help` lists the verbs", c.CommandPath(), c.CommandPath())
	}}
	c.AddCommand(sub...)
	return c
}

// finish prints the error of a command and chooses the exit code.
func (a *app) finish(ctx context.Context, err error) int {
	if err == nil {
		return exitOK
	}
	if q, ok := errors.AsType[quietError](err); ok {
		return q.code
	}
	interrupted := ctx.Err() != nil
	if interrupted && (errors.Is(err, context.Canceled) || isCancelled(err)) {
		return exitInterrupted
	}
	printError(a.Err, err)
	if isUsage(err) {
		return exitUsage
	}
	return exitFailed
}

// terminal tells whether a stream is a terminal.
func terminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// note tells the user something on stderr that is not an error.
func (a *app) note(format string, args ...any) {
	if !a.quiet {
		fmt.Fprintf(a.Err, format+"\n", args...)
	}
}
