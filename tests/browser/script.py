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
CELLS = """() => {
  const prose = text => {
    const copy = text?.cloneNode(true);
    copy?.querySelectorAll('code, mjx-container').forEach(e => e.remove());
    return copy?.textContent ?? '';
  };
  return [...document.querySelectorAll('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell')]
  .map(cell => {
    const model = window.jupyterapp.shell.currentWidget.content.widgets
      .find(w => w.node === cell)?.model;
    const prompt = cell.querySelector('.jp-InputPrompt')?.textContent ?? '';
    const outputs = model?.outputs?.toJSON() ?? [];
    const written = outputs.filter(o => o.name === 'stderr').map(o => [o.text].flat().join(''));
    return {
      code: cell.classList.contains('jp-CodeCell'),
      source: model?.sharedModel.getSource() ?? '',
      prompt: prompt.trim(),
      number: Number(/\\[(\\d+)\\]/.exec(prompt)?.[1] ?? -1),
      rendered: cell.classList.contains('jp-mod-rendered'),
      equations: cell.querySelectorAll('.jp-RenderedMarkdown mjx-container').length,
      prose: prose(cell.querySelector('.jp-RenderedMarkdown')),
      bad_math: cell.querySelectorAll('mjx-merror, mjx-mtext[style*="red"]').length,
      output: cell.querySelector('.jp-Cell-outputArea')?.textContent ?? '',
      errors: [
        ...outputs.filter(o => o.output_type === 'error').map(o => o.ename + ': ' + o.evalue),
        ...written.filter(text => /Warning|Error/.test(text)),
      ],
      pictures: [...cell.querySelectorAll('.jp-Cell-outputArea img')].map(i => i.naturalWidth),
    };
  });
}"""
# All cells drawn; `equations` of each cell that is text, in order.
SETTLED = """equations => {
  const app = window.jupyterapp, panel = app.shell.currentWidget;
  const cells = document.querySelectorAll('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell');
  return cells.length === panel.content.widgets.length && cells.length > 0
    && [...cells].every(c => !c.classList.contains('jp-MarkdownCell')
      || c.querySelector('.jp-RenderedMarkdown')?.innerHTML.trim())
    && [...cells].every(c => !c.classList.contains('jp-CodeCell')
      || c.querySelector('.cm-content'))
    && [...document.querySelectorAll('.jp-Cell-outputArea img')].every(i => i.complete)
    && [...cells].filter(c => c.classList.contains('jp-MarkdownCell')).every((c, index) =>
      c.querySelectorAll('.jp-RenderedMarkdown mjx-container').length === equations[index]);
}"""
SOURCES = """() => window.jupyterapp.shell.currentWidget.content.widgets
  .map(w => [w.model.type, w.model.sharedModel.getSource()])"""
CLEAR = """() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')"""
THEME = """theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})"""
SHUT = """() => window.jupyterapp?.serviceManager.sessions.shutdownAll()"""
DONE = """() => {
  const shown = '.jp-NotebookPanel:not(.lm-mod-hidden) ';
  const cells = [...document.querySelectorAll(shown + '.jp-CodeCell')];
  const panel = window.jupyterapp.shell.currentWidget;
  if (panel.content.widgets.some(w => w.model.outputs?.toJSON()
    .some(o => o.output_type === 'error'))) return true;
  const kernel = panel.sessionContext.session?.kernel;
  return kernel?.status === 'idle' && cells.every(c => !c.querySelector('.cm-content')?.textContent
    .trim() || /\\[\\d+\\]/.test(c.querySelector('.jp-InputPrompt').textContent));
}"""
EXECUTE = """async code => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const future = kernel.requestExecute({code, store_history: false});
  let text = '';
  future.onIOPub = m => { text += m.content.text ?? m.content.evalue ?? ''; };
  await future.done;
  return text;
}"""
# Wider than its place, or a source taller than the notebook's part of the window.
LAYOUT = """() => {
  const panel = window.jupyterapp.shell.currentWidget.content;
  const outer = panel.node.querySelector('.jp-WindowedPanel-outer') ?? panel.node;
  const high = outer.clientHeight, faults = [];
  const wide = (node, what) => {
    if (node.scrollWidth > node.clientWidth + 1)
      faults.push(`${what} is ${node.scrollWidth} px wide, there is room for ${node.clientWidth}`);
  };
  wide(outer, 'notebook');
  panel.widgets.forEach((cell, index) => {
    const name = `cell ${index + 1}`;
    const area = cell.node.querySelector('.jp-Cell-inputArea');
    if (cell.model.type === 'code' && area.offsetHeight > high)
      faults.push(`${name}: source is ${area.offsetHeight} px high, the screen ${high}`);
    cell.node.querySelectorAll('.cm-scroller').forEach(n => wide(n, `${name}: source`));
    cell.node.querySelectorAll('.jp-RenderedMarkdown, .jp-OutputArea-output')
      .forEach(n => wide(n, `${name}: ${n.dataset.mimeType ?? 'output'}`));
    cell.node.querySelectorAll('.jp-OutputArea-output img').forEach(i => {
      if (i.getBoundingClientRect().right > outer.getBoundingClientRect().right + 1)
        faults.push(`${name}: picture reaches over the right edge`);
    });
  });
  return faults;
}"""
CONTENT_HEIGHT = """() => {
  const outer = window.jupyterapp.shell.currentWidget.content.node
    .querySelector('.jp-WindowedPanel-outer');
  outer.scrollTop = 0;
  return [outer.scrollHeight, outer.clientHeight];
}"""
