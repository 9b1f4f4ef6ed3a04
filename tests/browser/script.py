"""JavaScript that looks at JupyterLab from inside the page, by the application it exposes."""

from __future__ import annotations

# `panel` is the notebook in front, connected to a kernel that waits.
READY = """path => {
  const panel = window.jupyterapp?.shell?.currentWidget;
  if (panel?.context?.path !== path || !panel.context.isReady) return false;
  const kernel = panel.sessionContext?.session?.kernel;
  return panel.sessionContext.isReady && kernel?.connectionStatus === 'connected'
    && kernel.status === 'idle';
}"""
# What the kernel raises, but for log lines, which go to stderr too; and messages of widgets that it
# has not done with: they may go to a subshell, of which the kernel's status does not tell.
LISTEN = """() => {
  window.raised = [];
  window.pending = new Set();
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  kernel.anyMessage.connect((_, {msg: m, direction}) => {
    const {header, parent_header: parent, content} = m;
    if (direction === 'send') {
      if (header.msg_type.startsWith('comm_')) window.pending.add(header.msg_id);
      return;
    }
    if (header.msg_type === 'status' && content.execution_state === 'idle')
      window.pending.delete(parent.msg_id);
    if (header.msg_type === 'error') window.raised.push(content.ename + ': ' + content.evalue);
    if (header.msg_type === 'stream' && content.name === 'stderr'
        && /Warning|Error/.test(content.text)) window.raised.push(content.text);
  });
}"""
CELLS = """() => window.jupyterapp.shell.currentWidget.content.widgets.map(widget => {
  const cell = widget.node, text = cell.querySelector('.jp-RenderedMarkdown')?.cloneNode(true);
  text?.querySelectorAll('code, mjx-container').forEach(e => e.remove());
  const prompt = cell.querySelector('.jp-InputPrompt')?.textContent ?? '';
  const outputs = widget.model.outputs?.toJSON() ?? [];
  const written = outputs.filter(o => o.name === 'stderr').map(o => [o.text].flat().join(''));
  return {
    code: widget.model.type === 'code',
    source: widget.model.sharedModel.getSource(),
    prompt: prompt.trim(),
    number: Number(/\\[(\\d+)\\]/.exec(prompt)?.[1] ?? -1),
    prose: text?.textContent ?? '',
    bad_math: cell.querySelectorAll('mjx-merror, mjx-mtext[style*="red"]').length,
    output: cell.querySelector('.jp-Cell-outputArea')?.textContent ?? '',
    errors: [
      ...outputs.filter(o => o.output_type === 'error').map(o => o.ename + ': ' + o.evalue),
      ...written.filter(text => /Warning|Error/.test(text)),
    ],
    pictures: [...cell.querySelectorAll('.jp-Cell-outputArea img')].map(i => i.naturalWidth),
  };
})"""
# All cells drawn, their pictures loaded, and every dollar typeset.
SETTLED = f"""() => {{
  const panel = window.jupyterapp.shell.currentWidget.content;
  return panel.widgets.length > 0 && panel.widgets.every(w => w.node.isConnected
      && w.node.querySelector(w.model.type === 'code' ? '.cm-content' : '.jp-RenderedMarkdown *'))
    && [...panel.node.querySelectorAll('.jp-Cell-outputArea img')].every(i => i.complete)
    && ({CELLS})().every(c => !c.prose.includes('$'));
}}"""
CLEAR = """() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')"""
THEME = """theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})"""
SHUT = """() => window.jupyterapp?.serviceManager.sessions.shutdownAll()"""
DONE = f"""() => {{
  const cells = ({CELLS})().filter(c => c.code && c.source.trim());
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel;
  return cells.some(c => c.errors.length)
    || kernel?.status === 'idle' && cells.every(c => c.number > 0);
}}"""
