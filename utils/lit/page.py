"""What is mended on LIT's page (lit-nlp 1.3.1): pieces of it, and what stands in their place."""

import re
from pathlib import Path

from werkzeug.wrappers import Response

STATIC = Path(__file__).parent / "static"
#: What is served of it, and as what.
TYPES = {".css": "text/css", ".js": "text/javascript", ".html": "text/html", ".woff2": "font/woff2"}

#: LIT shows names of columns and labels as Markdown. Here it shows none of their HTML, images and odd links.
_MARKDOWN = (
    b"const r=Q(t,{renderer:n})",
    b"const i=n.link;n.image=(t,r,l)=>l;n.link=(t,r,l)=>/^https:/.test(t)?i(t,r,l):l;"
    b'const r=Q(String(t).replace(/<(?!br>)/g,"&lt;"),{renderer:n,mangle:!1,headerIds:!1})',
)
#: Another "Target field" in Salience Maps changed nothing until another text was chosen.
_TARGET_FIELD = (
    b"this.react((()=>this.salienceTarget),(()=>{this.shouldRun",
    b"this.react((()=>[this.targetField,this.salienceTarget]),(()=>{this.shouldRun",
)
_ITS_CLASS = (
    b"@change=${t=>{this.targetField=t.target.value}}",
    b"@change=${t=>{this.targetField=t.target.value;this.updateToSelection(this.currentData)}}",
)
#: A number that was deleted in the editor could not be added.
_NO_NUMBER = (b'if(""!==t)return Number(t)', b'return""===t?null:Number(t)')
#: A page that says nothing of its layout takes the one that fits its width, in pixels.
_LAYOUT = (
    b"this.layoutName=t.layoutName||this.metadata.defaultLayout",
    b'this.layoutName=t.layoutName||(innerWidth<1300?"narrow":this.metadata.defaultLayout)',
)
#: The right edge of a page 1,000 pixels wide was cut off, by its padding.
_WIDTH = (b"min-width: 1000px;\n  max-width: 100vw;", b"box-sizing: border-box;\n  max-width: 100vw;")
#: The editor's buttons were cut off where they did not fit into one row.
_BUTTONS = (
    b".module-footer {\n  justify-content: flex-end;\n}\n\n.module-footer button {\n  margin: 4px;",
    b".module-footer {\n  justify-content: flex-end;\n  flex-wrap: wrap;\n  height: auto;\n}\n\n"
    b".module-footer button {\n  margin: 4px;",
)

#: The table shows predictions and errors from the start; the squared errors where they are asked for.
_ERRORS = (
    b"S=(0,m.Tp)(f.Ru),_=`${v}:${t}`;if(this.addColumnFromList(b,n,d,p,S,_),r[d]instanceof f.aK)"
    b"{null!=r[d].parent&&(this.addColumnFromList(x,n,d,g,S,_),this.addColumnFromList(w,n,d,y,S,_))}",
    b"S=(0,m.Tp)(f.Ru,{show_in_data_table:!0}),_=`${v}:${t}`;"
    b"if(this.addColumnFromList(b,n,d,p,S,_),r[d]instanceof f.aK)"
    b"{null!=r[d].parent&&(this.addColumnFromList(x,n,d,g,S,_),"
    b"this.addColumnFromList(w,n,d,y,(0,m.Tp)(f.Ru),_))}",
)
_CLASSES = (
    b"const _=(0,m.Tp)(f.q0);if(r[d]instanceof f.OS)",
    b'const _=(0,m.Tp)(f.q0,{show_in_data_table:"band_share"!==d});if(r[d]instanceof f.OS)',
)
#: Predictions stand beside the truth, and before the table's categories.
_ORDER = (
    b"return n.concat(r)}get defaultKeys",
    b"const i=n.filter((t=>this.dataSpec[t.name]instanceof b.q0&&!t.vocab));"
    b"return[...n.filter((t=>!i.includes(t))),...r,...i]}get defaultKeys",
)
#: Fields of a text that only the list of columns shows from the start.
_FIELDS = (
    b"return null==n||n.dataType.show_in_data_table}",
    b"return n?n.dataType.show_in_data_table:"
    b'!["standard_error","band","fold","number of words"].includes(t.name)}',
)
#: Columns that were chosen stay so when a model is added.
_COLUMNS = (
    b't.set(n.name,this.defaultKeys.includes(n)||"index"===n.name);this.columnVisibility=t}',
    b't.set(n.name,this.columnVisibility.get(n.name)??(this.defaultKeys.includes(n)||"index"===n.name));'
    b"this.columnVisibility=t}",
)
#: Of a generated text the table shows what the model reads, and not, in a row of input boxes, all the rest.
_GENERATED = (
    b'g=Object.keys(p.data).filter((t=>"_id"!==t&&"_meta"!==t)),v={};',
    b"g=Object.keys(p.data).filter((t=>this.appState.currentModelRequiredInputSpecKeys.includes(t))),v={};",
)
#: A third way to draw the map.
_TSNE = (
    b'umap:{displayName:"UMAP",interpreterName:"umap"}}',
    b'umap:{displayName:"UMAP",interpreterName:"umap"},tsne:{displayName:"t-SNE",interpreterName:"tsne"}}',
)
#: The map was made without a size, while it waited for its points.
_MAP = (
    b"#scatter-gl-container {\n  height: 100%;",
    b"#scatter-gl-container {\n  height: 100%;\n  min-width: 1px;\n  min-height: 1px;",
)
_ITS_FRAME = (b".hidden-container {\n  display: none;", b".hidden-container {\n  visibility: hidden;")
#: Each plot of Scalars held a WebGL context for every edit, and a browser takes the oldest of more than 16.
_CONTEXTS = (
    b'p.textContent="",m.textContent="";const y=',
    b'p.textContent="";for(const c of m.querySelectorAll("canvas"))'
    b'c.getContext("webgl")?.getExtension("WEBGL_lose_context")?.loseContext();m.textContent="";const y=',
)
#: A link to the page of attention.
_ATTENTION = (
    b'<lit-tooltip content="Copy link to this page" tooltipPosition="left">',
    b'<a class="headline-button unbordered" style="font-size: 16px; text-decoration: none" '
    b'href="attention.html">Attention</a>'
    b'<lit-tooltip content="Copy link to this page" tooltipPosition="left">',
)
#: What LIT and its libraries write into the browser's console although nothing is wrong.
_CHATTER = (
    b'T.log("[LIT - metadata]",(0,d.ZN)(n.metadata)),',
    b'g.log("[LIT - url configuration]",t),',
    b'g.log("Invalid value for layout param:",t.layoutName),',
    b'p.log("module_service.updateRenderLayout",{upper:l,lower:d,left:h});',
    b'p.log("module_service.updateRenderLayout",{currentLayout:this.renderLayout,newLayout:f},Date.now()),',
    b',S.log("Copied URL to this instance: ",t)',
    b'l.warn("Possibly conflicting .bind() invocations detected"),',
)
#: A plot that is not shown yet says so, again and again.
_NOT_SHOWN = (
    b'if(!t||!n)return l.warn("Delaying Scene initialization: canvas has zero size"),void(',
    b"if(!t||!n)return void(1||",
)
_NOT_DRAWN = (
    b'this.drawCommand():l.warn("Skipping draw: view is not initialized"),this.toDraw',
    b"this.drawCommand():0,this.toDraw",
)
#: Canvases whose pixels are read back; the browser warns unless it is told.
_READ_BACK = tuple(
    (
        b'.getContext("2d");if(!%b)throw' % name,
        b'.getContext("2d",{willReadFrequently:!0});if(!%b)throw' % name,
    )
    for name in (b"f", b"h")
)

PATCHES = (
    *(_MARKDOWN, _TARGET_FIELD, _ITS_CLASS, _NO_NUMBER),
    *(_LAYOUT, _WIDTH, _BUTTONS, _TSNE, _MAP, _ITS_FRAME),
    *(_ATTENTION, _CONTEXTS, _ERRORS, _CLASSES, _ORDER, _FIELDS, _COLUMNS, _GENERATED),
    *(_NOT_SHOWN, _NOT_DRAWN, *_READ_BACK),
    *((text, b"") for text in _CHATTER),
)


def patched(bundle: bytes) -> bytes:
    """LIT's main.js as it is served here."""
    for old, new in PATCHES:
        bundle = bundle.replace(old, new)
    return bundle


def with_own_fonts(page: bytes) -> bytes:
    """LIT's index.html with the fonts of this folder in place of Google's."""
    first, *others = re.findall(rb"<link href=\"https://fonts.googleapis.com/[^>]*>", page)
    page = page.replace(first, b'<link href="fonts/fonts.css" rel="stylesheet">')
    for link in others:
        page = page.replace(link, b"")
    return page


def own_file(path: str) -> Response | None:
    """The answer to a request for a font, or for the page of attention; None for any other."""
    files = {f"/{file.relative_to(STATIC)}": file for file in STATIC.rglob("*") if file.suffix in TYPES}
    if path not in files:
        return None
    headers = {"Cache-Control": "no-cache" if path.count("/") == 1 else "max-age=86400"}
    return Response(files[path].read_bytes(), headers=headers, mimetype=TYPES[files[path].suffix])
